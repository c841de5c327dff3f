"""One night's state, stage after stage: what changed, shards, embeddings, indexes.

Each stage does only what has no valid receipt, so a run that was killed goes on where it was by being started
again.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from agman.checkpoint import LoadedModel, load_model
from agman.errors import InvalidInput
from pipelines import extending
from pipelines.catalog import Catalog, Difference
from pipelines.condemned import condemned_parts
from pipelines.embed_workers import embed_workers
from pipelines.embedding import EmbedOptions, plan_part
from pipelines.errors import OutOfTime
from pipelines.index import IndexOptions
from pipelines.indexing import Indexed, index_parts
from pipelines.lake import Lake
from pipelines.merging import LiveRows, merge_small
from pipelines.models import fetch_model, import_model, is_extension, resolve_model
from pipelines.packed import check_model, check_snapshot
from pipelines.quality import GateOptions
from pipelines.repair import newest_whole, parts_of, shards_of, unit_names
from pipelines.scheduling import (
    Receipt,
    Unit,
    Workers,
    fresh_unit,
    run_units,
    valid_receipt,
)
from pipelines.shards.plan import ShardOptions, plan_shards
from pipelines.shards.write import write_shard
from pipelines.sources import open_source
from pipelines.storage.conditions import check_conditional_writes
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Manifest, Part, Pointer, read_pointer
from pipelines.telemetry import Run, Stage
from pipelines.tonight import Tonight
from pipelines.upkeep import small_parts
from pipelines.workers import TaskWorkers


@dataclass(frozen=True, kw_only=True, slots=True)
class NightConfig:
    """One night's work."""

    lake: str
    """Root of the lake: a local folder or s3://bucket/prefix."""
    source: str
    """Folder of pictures; table (.parquet, .csv, .jsonl) with key and uri; fashionai:/data/FashionAI;
    generated:num_images=3000."""
    dataset: str = "catalog"
    """Folder below shards/."""
    model: str = ""
    """Model id, its beginning, or a model's folder; empty: the published snapshot's or the only one."""
    shards: ShardOptions = field(default_factory=ShardOptions)
    """How pictures become tars."""
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    """How embedding runs."""
    index: IndexOptions = field(default_factory=IndexOptions)
    """Which index is built."""
    gates: GateOptions = field(default_factory=GateOptions)
    """Bounds that the snapshot must keep to be published."""
    retry_quarantined: bool = False
    """Fetch again what was quarantined although its bytes did not change."""
    verify_content: bool = False
    """Fetch every picture and compare its bytes, believing no version token; embeds only what differs."""
    verify_lake: bool = False
    """First read every published file, and make again what is damaged."""
    unsafe_single_writer: bool = False
    """Write to an S3 store without conditional writes, which is safe while no other run writes."""
    max_minutes: float = 0
    """Stop cleanly after this long, at a shard; the next run goes on there. 0: no limit."""
    force: str = ""
    """Publish although a gate failed: the reason, which is kept in the manifest with your name."""
    allow_new_taxonomy: bool = False
    """Publish with a model that has other attributes than the serving snapshot."""

    def open_lake(self) -> Lake:
        """Return the lake, written to as the config says."""
        return Lake(self.lake, unsafe_single_writer=self.unsafe_single_writer)


class Night:
    """The state of one night, stage after stage."""

    def __init__(
        self, config: NightConfig, run: Run, folder: Path, damaged: frozenset[str] = frozenset()
    ) -> None:
        """Read what is published; everything of tonight is compared with that.

        Args:
            config: what to do.
            run: who is told.
            folder: for files of the night.
            damaged: objects of the lake that are not to be used but made again.
        """
        self.config = config
        self.run = run
        self.folder = folder
        self.damaged = damaged
        self._spent_names = unit_names(damaged)
        self.lake = config.open_lake()
        check_conditional_writes(self.lake.store)
        self.pointer: Pointer | None = read_pointer(self.lake)
        self.published = newest_whole(self.lake, self.pointer, damaged)
        # Shards are a dataset's own: another one is compared with nothing.
        same = self.published is not None and self.published.dataset == config.dataset
        self.parent = self.published if same else None
        self.keeps_parts = False
        self._damaged_parts = parts_of(damaged, self.parent)
        self._spent_names |= self._damaged_parts
        self.catalog = Catalog(folder)
        self.shard_receipts: dict[str, Receipt] = {}
        self.new_parts: list[Part] = []
        self.indexed = Indexed()
        self.upkeep: list[str] = []
        self.images_embedded = 0
        self._is_late = False

    def plan(self) -> Difference:
        """Read the source and compare it with the published catalog.

        Raises:
            InvalidInput: if the source cannot be read, or its pictures would be packed otherwise than those
                that are published.
        """
        config = self.config
        if self.parent is not None:
            check_snapshot(self.parent, config.shards.resize, self.lake.url)
        self.source = open_source(config.source, config.shards.allow_uris)
        with self.run.stage("read source", 1, "sources") as stage:
            self.catalog.read_source(self.source, self.source.allowed.refusal)
            previous = [self._parent_file(name) for name in ("catalog.parquet", "quarantine.parquet")]
            self.catalog.read_previous(*previous)
            self.difference = self.catalog.diff(
                retry_quarantined=config.retry_quarantined,
                verify_content=config.verify_content,
                damaged_shards=shards_of(self.damaged),
            )
            stage.advance(1)
        found = self.difference
        self.run.say(
            f"  {found.input} records: {found.unchanged} unchanged, {found.wanted} to look at, "
            f"{found.gone} gone from the source"
        )
        for refusal in self.catalog.refusals():
            self.run.say(f"  {refusal}")
        return found

    def choose_model(self) -> None:
        """Settle the model before anything is fetched.

        Raises:
            InvalidInput: if there is no such model, or it does not fit what is published.
        """
        published = self.published
        if published is not None and published.dataset != self.config.dataset:
            raise InvalidInput(
                f"lake {self.lake.url}: publishes {published.dataset}, not {self.config.dataset}; "
                f"add --dataset {published.dataset} or use another --lake"
            )
        promoted = self.pointer.next_model if self.pointer else ""
        self.model = choose_model(self.lake, self.config.model or promoted, published)
        self.attributes, self.taxonomy_digest = self._check_model()
        self._spent_names |= condemned_parts(self.lake, self.model)

    def build_shards(self) -> None:
        """Fetch and pack what is new."""
        config = self.config
        adopted = self._adopt()
        # Where no token tells a change, the parent's name stands for the night whose bytes are fetched.
        self.is_fetched_on_trust = config.verify_content or self.catalog.count("wanted where token = ''") > 0
        units = plan_shards(
            config.dataset,
            self.catalog.records_to_fetch(),
            config.shards,
            salt=self.parent.id if self.parent else "",
            is_spent=lambda unit: self._is_damaged(unit) or self._is_passing(unit),
            allowed=self.source.allowed,
            anew=config.verify_content,
        )
        total = adopted + self.catalog.count("wanted")
        lake = self.lake

        def work(unit: Unit) -> Receipt:
            return write_shard(lake, unit)

        fresh = []
        workers = TaskWorkers(work)
        for unit, made in self._run("shard", total, units, workers, reused=adopted):
            self.shard_receipts[unit.name] = made
            fresh.append(unit.name)
        self.catalog.add_shards(self._indexes(fresh, "indexes"))

    def embed(self) -> None:
        """Embed every live picture that has no embedding under the model."""
        self.tonight = Tonight(
            self.catalog,
            same_model=self.keeps_parts,
            damaged_parts=self._damaged_parts,
        )
        self._extend_parts()
        units = (
            fresh_unit(plan_part(shard, self.shard_files(shard), self.model, digests), self._is_damaged)
            for shard, digests in self.tonight.pictures_to_embed()
        )
        refused: list[dict[str, Any]] = []
        self.tonight.add_parts(self._embedded(units, refused))
        self.tonight.refuse_pictures(refused)

    def _extend_parts(self) -> None:
        """Embed what is there under the attributes that the model has and its parts lack, no others."""
        live, known = self.tonight.live_rows(), self._known_parts()
        parts = extending.lacking(known, live, self.attributes)
        if not parts:
            return
        homes = extending.scattered(self.tonight, parts)
        # Rows whose picture is nowhere to be found are left behind, by a copy without the model.
        thinned = extending.thinned(self.tonight, parts, homes, live)
        merged = self._merge(thinned)
        if merged:
            self._explain(f"{len(thinned)} parts copied without what is gone, to be embedded under more")
            live, known = self.tonight.live_rows(), self._known_parts()
            parts = extending.lacking(known, live, self.attributes)
            homes = extending.scattered(self.tonight, parts)
        planned = extending.plan_extensions(parts, homes, self.model, self.attributes, self.shard_files)
        units = (fresh_unit(unit, self._is_damaged) for unit in planned)
        total = sum(part.num_rows for part in parts.values())
        workers = embed_workers(self.lake, self.model, self.config.embed, len(parts))
        unreadable = set()
        for unit, made in self._run("embed added attributes", total, units, workers):
            part = parts[unit.payload.extended.part]
            if made.detail["refused"]:
                unreadable.add(part.name)
                continue
            added = zip(made.detail["attributes"], made.files, strict=True)
            self.new_parts.append(replace(part, files={**part.files, **dict(added)}))
            self.images_embedded += part.num_rows
        # Of what can no longer be decoded the rest is embedded as if it were new, and that is quarantined.
        self.tonight.forget(unreadable)
        self._spent_names |= unreadable

    def _embedded(
        self, units: Iterable[Unit], refused: list[dict[str, Any]]
    ) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield (part, the pictures of its rows) as parts are finished; add to `refused` what they refuse."""
        total = self.catalog.count("pictures where part is null")
        num_units = self.catalog.count("(select distinct shard from pictures where part is null)")
        workers = embed_workers(self.lake, self.model, self.config.embed, num_units) if total else None
        for _, made in self._run("embed", total, units, workers):
            files = dict(zip(made.detail["attributes"], made.files, strict=True))
            part = Part(
                name=made.unit, shard=made.detail["shard"], num_rows=made.counts["embedded"], files=files
            )
            self.images_embedded += part.num_rows
            refused += made.detail["refused"]
            if part.num_rows:
                self.new_parts.append(part)
                yield part.name, made.detail["pictures"]

    def merge_parts(self) -> None:
        """Copy small parts together where there are too many of them."""
        options, size, live = self.config.index, self.config.shards.images_per_shard, self.tonight.live_rows()
        known = self._known_parts()
        small = small_parts([known[name] for name in sorted(live)], live, size, options)
        rows = self.tonight.rows_of([part.name for part in small])
        sources = [LiveRows(known[name], tuple(places), tuple(digests)) for name, places, digests in rows]
        merged = self._merge(sources)
        if merged:
            self._explain(
                f"{len(small)} small parts merged into {len(merged)} of {sum(p.num_rows for p in merged)} "
                f"live pictures: each was a file of every attribute, bound {options.max_small_parts}"
            )

    def _merge(self, sources: Sequence[LiveRows]) -> list[Part]:
        """Copy live rows of parts together and return the parts that hold them now."""
        size = self.config.shards.images_per_shard
        merged = merge_small(self.lake, self.model, sources, size, self._spent_names, self._run)
        if merged:
            self.new_parts += [part for part, _ in merged]
            self.tonight.move_rows([(part.name, digests) for part, digests in merged])
        return [part for part, _ in merged]

    def index(self) -> None:
        """Build FAISS files over the parts that have none; earlier groups stay while they are worth it."""
        live = self.tonight.live_rows()
        known = self._known_parts()
        self.indexed = index_parts(
            self.lake,
            self.model,
            known,
            self.parent if self.keeps_parts else None,
            live,
            self._spent_names,
            self.config.index,
            self._run,
        )
        for reason in self.indexed.reasons:
            self._explain(reason)

    def _explain(self, reason: str) -> None:
        self.upkeep.append(reason)
        self.run.say(f"  {reason}")

    def parts(self) -> tuple[Part, ...]:
        """Return the parts that the groups are made of."""
        needed = {name for group in self.indexed.groups for name in group.parts}
        known = self._known_parts()
        return tuple(known[name] for name in sorted(needed))

    def _known_parts(self) -> dict[str, Part]:
        return {part.name: part for part in (*(self.parent.parts if self.parent else ()), *self.new_parts)}

    def shard_files(self, shard: str) -> tuple[FileEntry, ...]:
        """Return a shard's tar and index as tonight's receipt or the parent's manifest lists them."""
        if shard in self.shard_receipts:
            return self.shard_receipts[shard].files
        if self.parent is not None and shard in self.parent.shards:
            return self.parent.shards[shard]
        raise InvalidInput(f"lake {self.lake.url}: neither a receipt nor the parent's manifest lists {shard}")

    def _adopt(self) -> int:
        """Settle records from shards that a stopped run finished; receipts prove that they are whole."""
        config, found = self.config, {}
        if not config.verify_content and self.catalog.count("wanted"):
            known = self.parent.shards if self.parent else {}
            for name in self.lake.store.list_names(f"receipts/shards/{config.dataset}"):
                shard = PurePosixPath(name).stem
                if shard in known or shard in self._spent_names:
                    continue
                made = valid_receipt(self.lake, Unit(stage=f"shards/{config.dataset}", name=shard))
                if made is not None and made.detail.get("options") == config.shards.naming():
                    found[shard] = made
        self.shard_receipts.update(found)
        return self.catalog.adopt(self._indexes(found, "adopted"), retry_quarantined=config.retry_quarantined)

    def _indexes(self, shards: Iterable[str], folder: str) -> list[Path]:
        """Copy the indexes of finished shards into a folder of the night, named `<shard>.parquet`."""
        (self.folder / folder).mkdir()
        paths = []
        for shard in sorted(shards):
            paths.append(self.folder / folder / f"{shard}.parquet")
            with self.lake.checked(self.shard_receipts[shard].files[1]) as path:
                shutil.copyfile(path, paths[-1])
        return paths

    def _run(
        self,
        name: str,
        total: int,
        units: Iterable[Unit],
        workers: Workers | None,
        reused: int = 0,
        unit: str = "images",
    ) -> Iterator[tuple[Unit, Receipt]]:
        with self.run.stage(name, total, unit) as stage:
            if reused:
                stage.advance(reused, reused=True)
            if workers is not None:
                for finished in run_units(self.lake, self._in_time(units), workers, self.run.say):
                    yield self._note(stage, *finished)
        if self._is_late:
            raise OutOfTime(
                f"stopped after {self.run.seconds() / 60:.1f} minutes, as --max-minutes "
                f"{self.config.max_minutes:g} says: {stage.times.line()}; what is finished stays, nothing "
                "was published; start the same command again to go on"
            )

    def _is_damaged(self, unit: Unit) -> bool:
        return unit.name in self._spent_names

    def _in_time(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Give units while there is time; those that were started are finished."""
        for unit in units:
            if self.config.max_minutes and self.run.seconds() > 60 * self.config.max_minutes:
                self._is_late = True
                return
            yield unit

    @staticmethod
    def _note(stage: Stage, unit: Unit, made: Receipt, reused: bool) -> tuple[Unit, Receipt]:
        stage.advance(unit.num_images, reused=reused, quarantined=made.counts.get("quarantined", 0))
        if not reused:
            stage.spent(made.seconds)
            stage.stored(sum(entry.num_bytes for entry in made.files))
        return unit, made

    def _parent_file(self, name: str) -> Path | None:
        """Keep a checked copy of a file of the parent for the length of the night."""
        if self.parent is None:
            return None
        copy = self.folder / f"parent-{name}"
        with self.lake.checked(self.parent.files[name]) as path:
            shutil.copyfile(path, copy)
        return copy

    def _is_passing(self, unit: Unit) -> bool:
        """Tell whether an unpublished attempt at this shard met trouble that may have passed since."""
        found = valid_receipt(self.lake, unit)
        return found is not None and found.counts.get("passing", 0) > 0

    def _check_model(self) -> tuple[tuple[str, ...], str]:
        """Return the model's attributes and its taxonomy's digest, if it goes on where the parent ended."""
        with fetch_model(self.lake, self.model) as folder:
            loaded = load_model(folder)
        taxonomy = loaded.taxonomy
        check_model(self.model, loaded.preprocess, self.config.shards.resize, "this night's")
        parent = self.parent
        self.keeps_parts = parent is not None and self._goes_on(loaded, parent)
        differs = parent is not None and parent.taxonomy_digest != taxonomy.digest
        if parent and differs and not self.keeps_parts and not self.config.allow_new_taxonomy:
            raise InvalidInput(
                f"model {self.model}: its taxonomy ({', '.join(taxonomy.names)}) differs from that of the "
                f"published snapshot {parent.id} ({', '.join(parent.attributes)}); searches for the old "
                "attributes would break; choose another --model or add --allow-new-taxonomy"
            )
        return taxonomy.names, taxonomy.digest

    def _goes_on(self, loaded: LoadedModel, parent: Manifest) -> bool:
        """Tell whether what is published stays right under tonight's model."""
        if parent.model == self.model:
            return True
        if not is_extension(self.lake, loaded, parent.model):
            return False
        added = ", ".join(name for name in loaded.taxonomy.names if name not in parent.attributes)
        self.run.say(
            f"  model {self.model} is {parent.model} with {added} added, tensor by tensor: what is published "
            "under the other attributes stays"
        )
        return True


def choose_model(lake: Lake, wanted: str, parent: Manifest | None) -> str:
    """Return the model that is asked for, else the serving one, else the lake's only one."""
    if not wanted and parent is not None:
        return parent.model
    if wanted and (Path(wanted) / "config.json").is_file():
        return import_model(lake, Path(wanted))
    return resolve_model(lake, wanted)
