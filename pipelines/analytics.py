"""What the values of a snapshot say, as tables: shares, weeks, coverage, quarantine, drift.

A snapshot becomes views of one DuckDB file, which works in bounded memory and spills to disk. Its words are
read from the tables beside the index (`index.read_ids`), where no vector is; each file is compared with its
digest, and comes through the lake's own storage code, so that a lake on S3 needs no extension of DuckDB's.

The views, with `new_` before them for the snapshot and `old_` for the one that it is compared with:

```
catalog   as stored, with file_row_number
shown     key, sha256, attribute, value, score, applies      a row a product and attribute
week      key, week                                          new_ alone: products whose week is known
```
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq

from agman.errors import InvalidInput
from pipelines.history import ancestry
from pipelines.lake import Lake
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Manifest
from pipelines.tables import Tables, strings
from pipelines.verified import Verified

_SHARE = "products / sum(products) over (partition by {}) as share"
_NAMED = "value is not null group by attribute, value"
QUESTIONS: Mapping[str, str] = {
    "value_shares": f"""
        select *, {_SHARE.format("attribute")} from (
            select attribute, value, count(*) as products, avg(score) as mean_score
            from new_shown where {_NAMED})
        order by attribute, products desc, value""",
    "value_weeks": f"""
        select *, {_SHARE.format("attribute, week")} from (
            select attribute, week, value, count(*) as products
            from new_shown join new_week using (key) where value is not null group by attribute, week, value)
        order by attribute, week, products desc, value""",
    "coverage": """
        select attribute, count(*) as products, count(value) as named, count(*) filter (applies) as have_it,
            count(*) filter (not applies) as lack_it, count(*) filter (applies is null) as not_known,
            avg(score) as mean_score
        from new_shown group by attribute order by attribute""",
    "quarantine": """
        select stage, kind, count(*) as records, records / num_input as share_of_input,
            min(first_seen) as since, max(attempts) as attempts, min(key) as example
        from new_quarantine,
            (select (select count(*) from new_catalog) + (select count(*) from new_quarantine) as num_input)
        group by stage, kind, num_input order by records desc, stage, kind""",
}
"""Of one snapshot."""
COMPARISONS: Mapping[str, str] = {
    "value_drift": f"""
        with counted as (
            select 'old' as snapshot, attribute, value, count(*) as products from old_shown where {_NAMED}
            union all
            select 'new', attribute, value, count(*) from new_shown where {_NAMED}),
        shares as (select *, {_SHARE.format("snapshot, attribute")} from counted)
        select attribute, value, coalesce(max(share) filter (snapshot = 'old'), 0) as old_share,
            coalesce(max(share) filter (snapshot = 'new'), 0) as new_share, new_share - old_share as moved
        from shares group by attribute, value order by abs(moved) desc, attribute, value""",
    "value_changes": """
        select n.attribute, o.value as old_value, n.value as new_value, count(*) as products,
            count(*) filter (o.sha256 <> n.sha256) as by_picture,
            count(*) filter (o.sha256 = n.sha256) as by_model, min(key) as example
        from old_shown as o join new_shown as n using (key, attribute)
        where n.value is distinct from o.value
        group by n.attribute, old_value, new_value order by products desc, attribute, old_value, new_value""",
}
"""Of two."""


class Analysis(Tables):
    """One snapshot, and perhaps the one that it is compared with, opened for questions."""

    def __init__(self, lake: Lake, manifest: Manifest, folder: Path) -> None:
        """Open a snapshot.

        Args:
            lake: where.
            manifest: of the snapshot.
            folder: for what DuckDB keeps on disk; must outlive this object.

        Raises:
            CorruptShard: if a file is not what the manifest says.
        """
        super().__init__(folder)
        self.lake, self.manifest = lake, manifest
        self._stack = ExitStack()
        self.verified = Verified(lake)
        self.catalog = self._open("new", manifest)
        quarantine = self._checked(manifest.files["quarantine.parquet"])
        self.all(f"create view new_quarantine as from {_parquet([quarantine])}")

    def close(self) -> None:
        """Close the database and drop temporary copies."""
        super().close()
        self.verified.save()
        self._stack.close()

    def compare_with(self, old: Manifest) -> None:
        """Open the snapshot that this one is compared with."""
        self._open("old", old)

    def set_weeks(self, column: str) -> None:
        """Tell each product's week, by its Monday.

        Args:
            column: of the catalog, with dates or times; empty: the night in which the key came first, among
                the snapshots that are kept. What is in the oldest one has no week, since it may be older.

        Raises:
            InvalidInput: if there is no such column, or no date in it.
        """
        if not column:
            self._set_weeks_by_nights()
            return
        time = f"try_cast({self.quoted(column)} as timestamp)"
        self.all(
            f"""create view new_week as select key, date_trunc('week', {time})::date as week
            from new_catalog where {time} is not null"""
        )
        if not self.count("new_week"):
            example = self.all(f"select {self.quoted(column)} from new_catalog limit 1")[0][0]
            raise InvalidInput(
                f"--week-column {column}: expected dates such as 2024-01-31, found {example!r}"
            )

    def _set_weeks_by_nights(self) -> None:
        self.all("create table came (key varchar, night integer, created timestamp)")
        chain = [
            (found.night, found.created, found.files["catalog.parquet"])
            for found in ancestry(self.lake, self.manifest.id)
        ]
        for night, created, entry in reversed(chain):
            with self.verified.checked(entry) as path:
                self.all(
                    f"""insert into came select key, {night}, '{created}'::timestamp
                    from {_parquet([path])} anti join came using (key)"""
                )
        self.all(
            """create view new_week as select key, date_trunc('week', created)::date as week
            from came semi join new_catalog using (key) where night > (select min(night) from came)"""
        )

    def quoted(self, column: str) -> str:
        """Return a column of the catalog as SQL names it.

        Raises:
            InvalidInput: if the catalog has no such column.
        """
        columns = pq.read_schema(self.catalog).names
        if column not in columns:
            raise InvalidInput(f"column {column}: not in the catalog, which has {', '.join(columns)}")
        return '"' + column.replace('"', '""') + '"'

    def _open(self, prefix: str, manifest: Manifest) -> Path:
        """Make a snapshot's views and return the path of its catalog."""
        catalog = self._checked(manifest.files["catalog.parquet"])
        ids = [self._checked(group.ids) for group in manifest.groups]
        self.all(
            f"""create view {prefix}_catalog as select * from
                read_parquet({strings([str(catalog)])}, hive_partitioning=false, file_row_number=true);
            create view {prefix}_ids as {_ids(ids, manifest.attributes)};
            create view {prefix}_shown as
            select c.key, c.sha256, unnest(shown, recursive := true)
            from (select key, sha256, part, row from {prefix}_catalog) as c
            join {prefix}_ids as i on i.part = c.part and i.row = c.row"""
        )
        return catalog

    def _checked(self, entry: FileEntry) -> Path:
        return self._stack.enter_context(self.verified.checked(entry))


def _ids(paths: Iterable[Path], attributes: Iterable[str]) -> str:
    """Return SQL of the rows of groups, with what is shown as a list of structs, an attribute each."""
    known: dict[bool, list[Path]] = {True: [], False: []}
    for path in paths:
        known["shows" in pq.read_schema(path).names].append(path)
    said = ", ".join(
        f"{{attribute: {_text(name)}, value: {field}.value, score: {field}.score, applies: {field}.applies}}"
        for name in attributes
        for field in ['shows."' + name.replace('"', '""') + '"']
    )
    silent = ", ".join(
        f"{{attribute: {_text(name)}, value: null::varchar, score: null::float, applies: null::boolean}}"
        for name in attributes
    )
    selects = [
        f"select part, row, [{each}] as shown from {_parquet(group)}"
        for each, group in ((said, known[True]), (silent, known[False]))
        if group
    ]
    nothing = f"select null::varchar as part, null::integer as row, [{silent}] as shown where false"
    return " union all ".join(selects) or nothing


def _parquet(paths: Iterable[Path]) -> str:
    return f"read_parquet({strings(map(str, paths))}, hive_partitioning=false)"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
