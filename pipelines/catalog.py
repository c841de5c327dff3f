"""What a night has to do: last night's catalog against tonight's source, in DuckDB, bounded in memory.

The tables of one night, each made from the ones before; large ones are views of Parquet where they can be,
since what DuckDB copies it also writes:

```
source    key, uri, token, role, labels + the shop's columns    one row per record that can be told apart
refused   key, uri, token, stage, kind, message, sha256         records that cannot: no key, no uri, key twice
previous  last night's catalog        previous_quarantine       last night's quarantine
compared  key, was_there, is_here, …  every key of both, with last night's picture: the only join of the two
reused    key, sha256, shard, …       unchanged since: not fetched
wanted    key, uri, token, …, known   to be fetched into new shards; known: the picture that it may still be
adopted   the rows of unpublished shards that are wanted: of a run that was stopped, not fetched again
fetched   the new shards' indexes and what was adopted
live      key, sha256, shard          every picture that the source has tonight
homes     sha256, shard, part, row    each live picture once, and last night's embedding if it has one
```

`tonight.py` goes on from there.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agman.errors import InvalidInput
from pipelines.shards.plan import SourceRecord
from pipelines.shards.write import PASSING_KINDS
from pipelines.sources import ABSENT, NOT_ALLOWED, RECORD_FIELDS, Source
from pipelines.tables import Tables, strings

RESERVED = ("sha256", "shard", "part", "row")
# Held-out products, told by their key alone, so that a picture keeps its role for ever.
_BUCKET = "('0x' || md5(key)[1:8])::bigint % 100"
ROLE_OF_KEY = f"""case when {_BUCKET} < 75 then 'train' when {_BUCKET} < 80 then 'valid'
                       when {_BUCKET} < 85 then 'query' else 'candidate' end"""
_NO_INDEX = """(select null::varchar as key, null::varchar as uri, null::varchar as token,
    null::varchar as member, null::bigint as "offset", null::varchar as sha256, null::varchar as status,
    null::varchar as kind, null::varchar as error, null::varchar as shard where false)"""
FETCH_BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How tonight's source differs from the published catalog before a picture was looked at, in records."""

    input: int
    unchanged: int
    wanted: int
    gone: int
    refused: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """How tonight's pictures differ from the published ones, by their bytes, in records."""

    added: int
    edited: int
    """Other bytes under the same key."""
    moved: int
    """The same bytes under another uri, or under another key in the place of one that is gone."""
    unchanged: int
    deleted: int


class Catalog(Tables):
    """Last night's catalog and tonight's source, until it is settled which pictures are live."""

    def read_source(self, source: Source, refusal: Callable[[str], str] = lambda uri: "") -> None:
        """Stream the source into `source` and `refused`.

        Args:
            source: tonight's.
            refusal: why a uri is not allowed; "" where it is.

        Raises:
            InvalidInput: if the source is unusable as a whole.
        """
        path = self.folder / "source.parquet"
        num_rows = _write_batches(source, path, refusal)
        if not num_rows:
            raise InvalidInput(f"source {source.name}: expected at least one record, found none")
        self.all(
            f"""create view read as
            select * replace (coalesce(key, '') as key, coalesce(uri, '') as uri,
                              coalesce(token, '') as token)
            from read_parquet('{path}', file_row_number=true);
            create table doubtful as
            with twice as (select key from read where key <> '' group by key having count(*) > 1)
            select key, uri, token, _refusal, file_row_number,
                   row_number() over (partition by key order by uri = '', _refusal <> '', uri, token) as copy
            from read where key = '' or uri = '' or _refusal <> '' or key in (from twice);
            create table refused as
            select case when key = '' then 'row ' || file_row_number else key end as key, uri, token,
                   'source' as stage, case when key = '' then 'no_key' when uri = '' then 'no_uri'
                   when copy > 1 then 'duplicate_key' else '{NOT_ALLOWED}' end as kind,
                   case when key = '' then 'the record has no key' when uri = '' then 'the record has no uri'
                   when copy > 1 then
                       'the key stands ' || copy || ' times in the source; the first by uri is used'
                   else _refusal end
                   as message, null::varchar as sha256, file_row_number
            from doubtful where key = '' or uri = '' or _refusal <> '' or copy > 1;
            create view source as
            select * exclude (file_row_number, _refusal) replace (coalesce(role, {ROLE_OF_KEY}) as role)
            from read anti join refused using (file_row_number)"""
        )

    def refusals(self) -> list[str]:
        """Say how many uris are not allowed and why the first is not; nothing where all are."""
        rows = self.all(
            f"""select count(*), min_by(message, key) from refused where kind = '{NOT_ALLOWED}'
            having count(*) > 0"""
        )
        return [f"{number} records have a uri that is not allowed: {example}" for number, example in rows]

    def read_previous(self, catalog: Path | None, quarantine: Path | None) -> None:
        """Open last night's tables; None on the first night."""
        if catalog is None or quarantine is None:
            self.all(
                """create table previous (key varchar, uri varchar, token varchar, sha256 varchar,
                                          shard varchar, part varchar, row integer);
                create table previous_quarantine (key varchar, uri varchar, token varchar, stage varchar,
                    kind varchar, message varchar, sha256 varchar, first_seen varchar, last_seen varchar,
                    attempts integer)"""
            )
            return
        self.all(f"create view previous as select * from read_parquet('{catalog}')")
        self.all(f"create view previous_quarantine as select * from read_parquet('{quarantine}')")

    def diff(
        self,
        *,
        retry_quarantined: bool = False,
        verify_content: bool = False,
        damaged_shards: Collection[str] = (),
    ) -> Difference:
        """Split `source` into what is reused, what stays quarantined and what is fetched.

        A record is unchanged while its uri and its version token are; a source without tokens is fetched
        anew every night. What was unavailable rather than bad is always tried again, unless the source knows
        that there is no file.

        Args:
            retry_quarantined: fetch also what was quarantined and has not changed.
            verify_content: fetch everything, and believe no token.
            damaged_shards: whose pictures must be packed anew.
        """
        self._compare(retry_quarantined, verify_content, damaged_shards)
        self._choose_wanted()
        counted = self.all(
            """select (select count(*) from read), (select count(*) from reused),
              (select count(*) from wanted), (select count(*) from compared where not is_here),
              (select count(*) from refused)"""
        )[0]
        names = ("input", "unchanged", "wanted", "gone", "refused")
        return Difference(**dict(zip(names, counted, strict=True)))

    def _compare(
        self, retry_quarantined: bool, verify_content: bool, damaged_shards: Collection[str]
    ) -> None:
        """Join both catalogs, and tell what is reused, still quarantined and changed."""
        again = "true" if retry_quarantined else f"(q.kind in {PASSING_KINDS} and q.token <> '{ABSENT}')"
        self.all(
            f"""create table damaged_shards as select unnest({strings(damaged_shards)}) as shard;
            create table compared as
            select key, p.key is not null as was_there, s.key is not null as is_here,
                   s.uri = p.uri as in_place,
                   coalesce(s.uri = p.uri and s.token = p.token and s.token <> '', false) as is_same,
                   p.sha256, p.shard, p.part, p.row
            from (select key, uri, token from source) s
            full join (select key, uri, token, sha256, shard, part, row from previous) p using (key);
            create view whole as select * from compared where was_there
                and shard not in (from damaged_shards);
            create view reused as select key, sha256, shard, part, row from whole
                where is_same and not {verify_content};
            create table still_quarantined as
            select q.* from source s
            join (select * from previous_quarantine where stage <> 'source') q using (key)
            where redacted_uri(s.uri) = q.uri and s.token = q.token and s.token <> '' and not ({again});
            create table changed as
            select key, coalesce(shard in (from damaged_shards), false) as is_damaged, is_same, sha256, shard
            from compared where is_here and key not in (select key from still_quarantined)
                and ({verify_content} or not is_same or is_damaged)"""
        )

    def _choose_wanted(self) -> None:
        """Make `wanted` of what changed, with the picture that each record may still be."""
        self.all(
            f"""create table adopted as from {_NO_INDEX};
            create table wanted as
            with open as (select * from source semi join changed using (key)),
            told as (select token, min(sha256) as sha256 from previous
                     where token <> '' and token in (select token from open)
                       and shard not in (from damaged_shards)
                     group by token having count(distinct sha256) = 1)
            select s.key, s.uri, s.token, s.role, s.labels,
                   case when q.token = s.token and q.uri = redacted_uri(s.uri) then q.attempts
                   else 0 end as attempt,
                   coalesce(case when c.is_same or not c.is_damaged then c.sha256 end, t.sha256, '') as known,
                   case when c.is_same and c.is_damaged then c.shard else '' end as damaged
            from open s join changed c using (key)
            left join (select * from previous_quarantine where stage <> 'source') q using (key)
            left join told t on t.token = s.token"""
        )

    def adopt(self, indexes: Sequence[Path], *, retry_quarantined: bool = False) -> int:
        """Take from unpublished shards what is wanted, instead of fetching it again.

        A run that was stopped left finished shards that no snapshot lists. Their pictures count for the same
        record: key, uri and token. So does what was found bad in them, unless it may have passed since or
        is to be looked at again.

        Args:
            indexes: of these shards, files named `<shard>.parquet`.
            retry_quarantined: as for `diff`.

        Returns:
            How many records are settled by it.
        """
        if not indexes:
            return 0
        self.all(
            f"""create or replace table adopted as
            with found as (select i.* from {_indexes(indexes)} i
                           join wanted w on i.key = w.key and i.uri = w.uri and i.token = w.token
                           where i.token <> '' and w.damaged = '' and case when i.status = 'ok'
                             then i.member is not null or i.sha256 in (select sha256 from whole)
                             else w.attempt = 0 and not {retry_quarantined}
                               and (i.kind not in {PASSING_KINDS} or i.token = '{ABSENT}') end)
            select distinct on (key) * from found order by key, status <> 'ok', shard;
            delete from wanted where key in (select key from adopted)"""
        )
        return self.count("adopted")

    def changes(self) -> Changes:
        """Count by their bytes what is new tonight, once all pictures are known."""
        counted = self.all(
            """with here as (select f.key, f.sha256, was_there, in_place, c.sha256 as before
                          from fetched f join compared c using (key) where f.status = 'ok'),
            gone as (select sha256, row_number() over (partition by sha256 order by key) as copy
                     from compared where not is_here),
            new as (select key, sha256, row_number() over (partition by sha256 order by key) as copy
                    from here where not was_there),
            renamed as (select new.key from new join gone using (sha256, copy)),
            kept as (select sha256 = before as same, in_place from here where was_there)
            select (select count(*) from new) - (select count(*) from renamed),
              (select count(*) from kept where not same),
              (select count(*) from kept where same and not in_place) + (select count(*) from renamed),
              (select count(*) from kept where same and in_place) + (select count(*) from reused),
              (select count(*) from gone) - (select count(*) from renamed)"""
        )[0]
        names = ("added", "edited", "moved", "unchanged", "deleted")
        return Changes(**dict(zip(names, counted, strict=True)))

    def records_to_fetch(self) -> Iterator[SourceRecord]:
        """Yield what must be fetched, sorted by key, a few thousand rows in memory at a time."""
        # A cursor of its own: one connection holds one result at a time.
        rows = self.db.cursor().execute("select * from wanted order by key")
        while batch := rows.fetchmany(FETCH_BATCH_ROWS):
            for key, uri, token, role, labels, attempt, known, damaged in batch:
                yield SourceRecord(
                    key, uri, token, role, dict(labels or {}), int(attempt or 0), known, damaged
                )

    def add_shards(self, indexes: Sequence[Path]) -> None:
        """Read the new shards' indexes (files named `<shard>.parquet`) and settle which pictures are live."""
        self.all(
            f"""create table fetched as
            select * from {_indexes(indexes)} union all by name select * from adopted"""
        )
        # A picture that the lake has already is read from there, not from the shard that fetched it again.
        self.all(
            """create view live as select key, sha256, shard from reused
            union all select key, sha256, shard from fetched where status = 'ok';
            create table homes as
            with new as (select sha256, min(shard) filter (where member is not null) as packed
                         from fetched where status = 'ok' group by 1),
            old as (select sha256, min(shard) filter (where shard not in (from damaged_shards)) as shard,
                           min(part) as part, arg_min(row, part) as row
                    from compared where was_there and sha256 in (select sha256 from new) group by 1)
            select sha256, min(shard) as shard, min(part) as part, arg_min(row, part) as row from reused
            where sha256 not in (select sha256 from new) group by 1
            union all select sha256, coalesce(old.shard, packed), part, row
            from new left join old using (sha256)"""
        )


def _indexes(paths: Sequence[Path]) -> str:
    """Return what SQL selects the rows of shards' indexes from, with the shard beside; some have no token."""
    if not paths:
        return f"(select * from {_NO_INDEX})"
    files = strings(str(path) for path in paths)
    return f"""(select * exclude (filename), parse_filename(filename, true) as shard from (
        from read_parquet({files}, filename=true, union_by_name=true)
        union all by name select * exclude (shard) from {_NO_INDEX}))"""


def _write_batches(source: Source, path: Path, refusal: Callable[[str], str]) -> int:
    """Write the source's batches and why their uris are refused to one Parquet file; return the rows."""
    writer: pq.ParquetWriter | None = None
    num_rows = 0
    for batch in source.batches():
        clash = sorted(set(RESERVED) & set(batch.schema.names))
        if clash or batch.schema.names[: len(RECORD_FIELDS.names)] != RECORD_FIELDS.names:
            raise InvalidInput(f"source {source.name}: unexpected columns {clash or batch.schema.names}")
        refusals = [refusal(uri) if uri else "" for uri in batch["uri"].to_pylist()]
        batch = batch.append_column("_refusal", pa.array(refusals, pa.string()))
        writer = writer or pq.ParquetWriter(path, batch.schema)
        writer.write_batch(batch)
        num_rows += batch.num_rows
    if writer is not None:
        writer.close()
    return num_rows
