"""Tonight's pictures: which are still to be embedded, where each embedding is, and the catalog that says so.

Tables beside those of `catalog.py`:

```
pictures          sha256, shard, part, row   each live picture once, with tonight's embedding
refused_pictures  sha256, kind, message      those that could not be embedded
moved             sha256, part, row          where an embedding was before small parts were merged
```
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.tables import Tables, strings

QUARANTINE_COLUMNS = (
    "key", "uri", "token", "stage", "kind", "message", "sha256", "first_seen", "last_seen", "attempts",
)  # fmt: skip
ROWS_PER_GROUP = 16_384
"""Rows of a row group of the catalog, the least that a search decodes to show a product; DuckDB's own choice,
122,880, takes a search seven times as long."""
PLACED_AT_ONCE = 32
"""Parts whose rows are held in memory before they go into a table."""


class Tonight:
    """Where tonight's pictures and their embeddings are."""

    def __init__(self, tables: Tables, *, same_model: bool, damaged_parts: Collection[str] = ()) -> None:
        """Make `pictures`: each live picture once, with its part and row if the model is the same.

        Args:
            tables: of a `Catalog` that knows which pictures are live.
            same_model: whether the published embeddings are of tonight's model.
            damaged_parts: whose pictures must be embedded anew.
        """
        self._tables = tables
        self._same_model = same_model
        lost = f"(not {same_model} or list_contains({strings(damaged_parts)}, part))"
        self._tables.all(
            f"""create table pictures as
            select sha256, shard, case when {lost} then null else part end as part,
                   case when {lost} then null else row end as row from homes;
            create table moved as select sha256, part, row from pictures limit 0"""
        )

    def pictures_to_embed(self) -> Iterator[tuple[str, list[str]]]:
        """Yield (shard, its pictures without an embedding, sorted), a shard at a time."""
        rows = self._tables.db.cursor().execute(
            """select shard, list(sha256 order by sha256) from pictures where part is null
            group by shard order by shard"""
        )
        while row := rows.fetchone():
            yield row[0], row[1]

    def add_parts(self, parts: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Note what was embedded, as it comes: a first night's digests are too many for a list.

        Args:
            parts: (part, the pictures of its rows in order).
        """
        self._tables.all("create or replace table placed (sha256 varchar, part varchar, row integer)")
        batch: list[tuple[str, Sequence[str]]] = []
        for part in parts:
            batch.append(part)
            if len(batch) == PLACED_AT_ONCE:
                self._insert_places(batch)
                batch.clear()
        self._insert_places(batch)
        self._tables.all(
            """update pictures set part = e.part, row = e.row from placed e
            where pictures.sha256 = e.sha256;
            drop table placed"""
        )

    def refuse_pictures(self, refused: Sequence[dict[str, Any]]) -> None:
        """Note which pictures could not be embedded: sha256, kind, message."""
        fields = [("sha256", pa.string()), ("kind", pa.string()), ("message", pa.string())]
        self._tables.db.register(
            "refused_rows", pa.Table.from_pylist(list(refused), schema=pa.schema(fields))
        )
        self._tables.all("create table refused_pictures as select * from refused_rows")

    def rows_of(self, parts: Collection[str]) -> Iterator[tuple[str, list[int], list[str]]]:
        """Yield (part, its live rows, the sha256 of their pictures) of some parts, a part at a time."""
        rows = self._tables.db.cursor().execute(
            f"""select part, list(row order by row), list(sha256 order by row) from pictures
            where list_contains({strings(parts)}, part) group by part order by part"""
        )
        while row := rows.fetchone():
            yield row

    def homes_of(self, parts: Collection[str]) -> Iterator[tuple[str, str, list[str]]]:
        """Yield (part, shard, the pictures of its live rows that lie there), for some parts."""
        rows = self._tables.db.cursor().execute(
            f"""select part, shard, list(sha256 order by row) from pictures
            where list_contains({strings(parts)}, part) group by part, shard order by part, shard"""
        )
        while row := rows.fetchone():
            yield row

    def forget(self, parts: Collection[str]) -> None:
        """Note that the pictures of some parts are to be embedded anew."""
        self._tables.all(
            f"""update pictures set part = null, row = null
            where list_contains({strings(parts)}, part)"""
        )

    def move_rows(self, parts: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Note that embeddings were copied.

        Args:
            parts: (part that they are in now, the pictures of its rows in order).
        """
        self._tables.db.register("moved_rows", _places(parts))
        self._tables.all(
            """insert into moved select p.sha256, p.part, p.row from pictures p
            where p.sha256 in (select sha256 from moved_rows)
                and p.sha256 not in (select sha256 from moved)"""
        )
        self.add_parts(parts)

    def _insert_places(self, parts: Sequence[tuple[str, Sequence[str]]]) -> None:
        self._tables.db.register("placed_rows", _places(parts))
        self._tables.all("insert into placed from placed_rows")

    def write(self, catalog: Path, quarantine: Path, now: str) -> None:
        """Write tonight's catalog, sorted by key, and its quarantine."""
        self._tables.all(
            f"""copy (select s.key, s.uri, s.token, s.role, s.labels, l.sha256, p.shard, p.part, p.row,
                      s.* exclude (key, uri, token, role, labels)
                from source s join live l using (key) join pictures p on p.sha256 = l.sha256
                where p.part is not null order by s.key)
            to '{catalog}' (format parquet, compression zstd, row_group_size {ROWS_PER_GROUP})"""
        )
        self._tables.all(
            f"""copy (with found as (
                select key, redacted_uri(uri) as uri, token, stage, kind, message, sha256 from refused
                union all select f.key, redacted_uri(f.uri), s.token, 'shards', f.kind, f.error, f.sha256
                from fetched f join source s using (key) where f.status <> 'ok'
                union all
                select l.key, redacted_uri(s.uri), s.token, 'embeddings', r.kind, r.message, l.sha256
                from live l join source s using (key) join refused_pictures r on r.sha256 = l.sha256)
              select * from (
                select f.*, coalesce(q.first_seen, '{now}') as first_seen, '{now}' as last_seen,
                       (coalesce(q.attempts, 0) + 1)::integer as attempts
                from found f left join (select key, token, min(first_seen) as first_seen,
                    max(attempts) as attempts from previous_quarantine group by 1, 2) q
                    on q.key = f.key and q.token = f.token
                union all select {", ".join(QUARANTINE_COLUMNS)} from still_quarantined
              ) order by key, stage)
            to '{quarantine}' (format parquet, compression zstd)"""
        )

    def count_published(self, catalog: Path) -> dict[str, int]:
        """Count the rows of tonight's catalog; `reused` are those whose embedding was published before."""
        row = self._tables.all(
            f"""with c as (select sha256, coalesce(m.part, c.part) as part
                from read_parquet('{catalog}') c left join moved m using (sha256))
            select count(*), count(*) filter (where {self._same_model}
                       and part in (select part from compared where was_there)),
                   count(distinct sha256), count(*) - count(distinct sha256) from c"""
        )[0]
        names = ("rows", "reused", "pictures", "duplicate")
        return dict(zip(names, row, strict=True))

    def count_twice_embedded(self) -> int:
        """Return how many live pictures have more than one place: always 0, unless this code is wrong."""
        return int(
            self._tables.value(
                "select count(*) - count(distinct sha256) from pictures where part is not null"
            )
        )

    def live_rows(self) -> dict[str, int]:
        """Return part -> how many live pictures it holds, of every part that holds one."""
        return dict(
            self._tables.all("select part, count(*) from pictures where part is not null group by part")
        )

    def live_shards(self) -> list[str]:
        """Return the shards that hold a live picture, sorted."""
        rows = self._tables.all("select distinct shard from pictures where part is not null order by 1")
        return [shard for (shard,) in rows]


def _places(parts: Sequence[tuple[str, Sequence[str]]]) -> pa.Table:
    """Return sha256, part and row of the pictures of parts, given in the order of their rows."""
    return pa.table(
        {
            "sha256": [digest for _, digests in parts for digest in digests],
            "part": [part for part, digests in parts for _ in digests],
            "row": pa.array([i for _, digests in parts for i in range(len(digests))], pa.int32()),
        },
        schema=pa.schema([("sha256", pa.string()), ("part", pa.string()), ("row", pa.int32())]),
    )
