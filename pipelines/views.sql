-- A lake's views, for DuckDB alone (1.5 or later). This file lies in the lake and is the same in every one.
--
--     .read lake/views.sql                               in the folder that the lake lies in, or inside the lake
--     set variable lake = 's3://shop-lake';              before that, for a lake elsewhere
--     set variable snapshot = 'previous';                before that, for a snapshot that is not the published
--                                                        one: an id, or `previous`; null: the published one
--
-- catalog      a product of the snapshot: key, uri, sha256, where it lies, and the shop's own columns
-- embeddings   a product and an attribute: value, score, applies, and the vector of the snapshot's model
-- latest       a product with the shop's own columns and `shows`, which holds what the model says:
--              shows.neckline_design.value, .score, .applies
-- quarantine   a record that could not be used, and why
-- snapshots    the snapshot and those before it, newest first, as far back as they are kept
-- arrivals     the night in which a key came first, of all keys in `snapshots`; is_known is false where it was
--              there already in the oldest one that is kept
--
-- The session stays on the snapshot that was published when this was read. Read it again to go on to the next.

set variable lake_root = (
    select case
        when getvariable('lake') is not null then rtrim(getvariable('lake'), '/')
        when count(*) filter (file = 'CURRENT.json') = 1 then '.'
        when count(*) = 1 then min(parse_dirpath(file))
        else error('views.sql: expected one lake here, found ' || count(*)
            || '; name it first: set variable lake = ''path/of/lake'';')
        end
    from glob(['CURRENT.json', '*/CURRENT.json']));

set variable lake_snapshot = (
    select case coalesce(getvariable('snapshot'), 'current')
        when 'current' then p.snapshot
        when 'previous' then coalesce(p.previous, error('views.sql: nothing was published before ' || p.snapshot))
        else getvariable('snapshot') end
    from read_json(getvariable('lake_root') || '/CURRENT.json',
        columns = {snapshot: 'varchar', previous: 'varchar'}) as p);

-- What is read is what the manifest lists: other models, parts that were merged away and nights that were
-- refused lie in the same folders.
set variable lake_files = (
    select {
        model: model,
        catalog: getvariable('lake_root') || '/' || files['catalog.parquet'].name,
        quarantine: getvariable('lake_root') || '/' || files['quarantine.parquet'].name,
        embeddings: list_transform(
            flatten(list_transform(parts, lambda part: map_values(part.files))),
            lambda file: getvariable('lake_root') || '/' || file.name),
        parts: flatten(list_transform(parts, lambda part: list_transform(map_values(part.files),
            lambda file: {file: file.name, part: part.name}))),
        shows: list_transform(groups, lambda g: getvariable('lake_root') || '/' || g.ids.name)}
    from read_json(getvariable('lake_root') || '/snapshots/' || getvariable('lake_snapshot') || '/manifest.json',
        maximum_object_size = 1 << 30, columns = {
            model: 'varchar', files: 'map(varchar, struct("name" varchar))',
            parts: 'struct("name" varchar, files map(varchar, struct("name" varchar)))[]',
            "groups": 'struct(ids struct("name" varchar))[]'}));

create or replace temp view catalog as
select * from read_parquet(getvariable('lake_files').catalog, hive_partitioning = false);

create or replace temp view quarantine as
select * from read_parquet(getvariable('lake_files').quarantine, hive_partitioning = false);

-- A row of a part may be of a picture that is no longer in the catalog, or of one that two products show. Which
-- part a file is of is told by the manifest: an attribute that was added later has files of other names.
create or replace temp view embeddings as
with files as (select unnest(getvariable('lake_files').parts, recursive := true))
select c.key, e.attribute, e.value, e.score, e.applies, e.embedding, e.sha256,
    getvariable('lake_files').model as model
from read_parquet(getvariable('lake_files').embeddings, hive_partitioning = true, hive_types_autocast = false,
    union_by_name = true, filename = true) as e
join files on parse_path(files.file)[-3:] = parse_path(e.filename)[-3:]
join catalog as c on c.sha256 = e.sha256 and c.part = files.part;

-- The same words, from the table beside the index: no vector is read.
create or replace temp view latest as
select c.key, i.shows, c.* exclude (key)
from catalog as c
left join read_parquet(getvariable('lake_files').shows, hive_partitioning = false, union_by_name = true) as i
    on i.part = c.part and i.row = c.row;

create or replace temp view snapshots as
with recursive manifests as (
    select * from read_json(getvariable('lake_root') || '/snapshots/*/manifest.json',
        maximum_object_size = 1 << 30, columns = {
            id: 'varchar', parent: 'varchar', night: 'integer', created: 'timestamp', model: 'varchar',
            counts: 'map(varchar, bigint)'})),
chain as (
    select * from manifests where id = getvariable('lake_snapshot')
    union all
    select m.* from manifests as m join chain on m.id = chain.parent)
select * from chain order by night desc;

create or replace temp view arrivals as
select key, min_by(s.id, s.night) as snapshot, min(s.created) as arrived,
    min(s.night) > (select min(night) from snapshots) as is_known
from read_parquet(getvariable('lake_root') || '/snapshots/*/catalog.parquet', hive_partitioning = false,
    filename = true) as c
join snapshots as s on s.id = parse_path(c.filename)[-2]
group by key;
