"""Compare a model with the serving one, and set it for the next night.

MODEL is an id, its beginning, or a folder. Both models are judged on held-out pictures, by the figures
that training or jobs/evaluate.py left, else anew on the pictures of --source; and MODEL embeds the probe, the
fixed pictures that every night embeds anew, to tell how far its neighbours are from the published ones. What
serves does not change: the next jobs/nightly.py embeds every live picture with MODEL, from the tars, and
publishes that. A night that is at work meanwhile does not publish and has to be started again.

A model of jobs/add_attribute.py is the serving one under all attributes but the added, tensor by tensor:
these alone are judged, must not be worse than a random ranking, and are what the next night embeds.

    python jobs/promote.py 9f3c --lake ./lake --source ./labelled.parquet
    python jobs/promote.py 9f3c --lake ./lake --force --why "knows the new lapels"
    python jobs/promote.py --lake ./lake --cancel
    ray job submit --working-dir . -- python jobs/promote.py 9f3c --lake s3://shop-lake --source s3://shop/feed.parquet
"""

import getpass
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro
from rich.table import Table

from agman.errors import InvalidInput
from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.drift import Moved
from pipelines.evaluation import Split
from pipelines.lake import Lake
from pipelines.night import NightConfig, choose_model
from pipelines.promotion import (
    Judged,
    added_attributes,
    cancel,
    check_loss,
    judge_added,
    judge_both,
    load_candidate,
    probe_candidate,
    promote,
)
from pipelines.quality import NEIGHBOURS
from pipelines.scoring import MAP
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import Manifest, current_manifest

TITLES = {MAP: "MAP"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoteConfig:
    """One promotion."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = ""
    """Model for the next night: its id, the beginning of it, or a model's folder."""
    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    source: str = ""
    """Where labelled pictures come from; not needed where both models were judged on the same ones before."""
    dataset: str = ""
    """Folder below shards/ of the pictures that judge; empty: the published one."""
    split: Split = "test"
    """`test`: roles query and candidate; `valid`: what training validates with; or the split's triplets."""
    max_loss: float = 0.01
    """How much lower the model may be over all attributes, MAP or share of right triplets."""
    force: bool = False
    """Promote although it is lower by more; needs --why."""
    why: str = ""
    """Reason, kept with your name in the run's report."""
    allow_new_taxonomy: bool = False
    """Promote a model that has other attributes than the serving one."""
    cancel: bool = False
    """Take the promotion of a model back."""
    shards: ShardOptions = field(default_factory=ShardOptions)
    """How pictures of --source become tars that are not there yet."""

    def __post_init__(self) -> None:
        """Refuse flags that do not go together."""
        if self.force and not self.why:
            raise ValueError("--force: expected a reason, found none; add --why REASON")
        if self.cancel and self.model:
            raise ValueError(f"expected MODEL or --cancel, found {self.model} and --cancel")


def main() -> None:
    """Promote a model, or take that back."""
    config = read_config({"promote": ("", PromoteConfig())}, __doc__)
    lake = Lake(config.lake)
    with telemetry.run("promote", config, lake) as run:
        if config.cancel:
            keep(run, config, cancelled=cancel(lake))
            run.say("the promotion is taken back: the next night goes on with the serving model")
        else:
            promote_model(config, lake, run)


def promote_model(config: PromoteConfig, lake: Lake, run: telemetry.Run) -> None:
    """Compare, show and promote.

    Raises:
        InvalidInput: if the model cannot serve, or nothing tells how good it is.
        GateFailed: if it is worse than is allowed.
    """
    if not config.model:
        raise InvalidInput("expected a MODEL to promote, or --cancel; jobs/train.py makes models")
    serving = current_manifest(lake)
    model = choose_model(lake, config.model, serving)
    candidate = load_candidate(lake, model, serving, allow_new_taxonomy=config.allow_new_taxonomy)
    moved = probe_candidate(candidate, model, serving)
    night = NightConfig(
        lake=config.lake,
        source=config.source,
        dataset=config.dataset or serving.dataset,
        shards=config.shards,
    )
    added = added_attributes(candidate, serving)
    if added:
        judged = judge_added(lake, model, added, night, config.split, run)
    else:
        judged = judge_both(lake, serving.model, model, night, config.split, run)
    keep(
        run,
        config,
        serving=serving.model,
        candidate=model,
        judged=asdict(judged),
        probe={name: asdict(found) for name, found in moved.items()},
    )
    show(run, serving, model, judged, moved)
    if not config.force:
        check_loss(judged, model, 0.0 if added else config.max_loss)
    promote(lake, serving, model)
    is_other = candidate.loaded.taxonomy.digest != serving.taxonomy_digest and not added
    tell(run, config, serving, model, added, is_new_taxonomy=is_other)


def keep(run: telemetry.Run, config: PromoteConfig, **found: object) -> None:
    """Keep who did it, why and on what figures in the run's report."""
    run.results["promotion"] = {"who": getpass.getuser(), "why": config.why, "forced": config.force, **found}


def show(
    run: telemetry.Run, serving: Manifest, model: str, judged: Judged, moved: Mapping[str, Moved]
) -> None:
    """Print the two models side by side, an attribute a row."""
    title = TITLES.get(judged.measure, "Share of right triplets")
    table = Table(
        "attribute",
        *(f"serving {serving.model[:8]}", f"candidate {model[:8]}", "difference"),
        *(f"overlap@{NEIGHBOURS}", "cosine"),
        title=f"{title} on the {judged.split} pictures of {judged.dataset}, and the probe, old to new",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name in dict.fromkeys([*judged.rows, *moved]):
        beside = " (added; beside random)" if name in judged.added else ""
        table.add_row(name + beside, *_scores(judged.rows.get(name)), *_probe(moved.get(name)))
    table.add_section()
    which = "added, beside random" if judged.added else "all"
    table.add_row(f"{which}, query-weighted", *_scores(judged.overall), "", "")
    run.show(table)


def tell(
    run: telemetry.Run,
    config: PromoteConfig,
    serving: Manifest,
    model: str,
    added: tuple[str, ...] = (),
    *,
    is_new_taxonomy: bool,
) -> None:
    """Say what happens next and how to undo it."""
    pictures = serving.counts.get("pictures", serving.files["catalog.parquet"].num_rows)
    flag = " --allow-new-taxonomy" if is_new_taxonomy else ""
    run.say(f"model {model} is promoted; {serving.model} serves until the next night publishes")
    what = f"under {', '.join(added)} alone" if added else "with it"
    run.say(f"  the next jobs/nightly.py{flag} embeds all {pictures} live pictures {what}, from the tars")
    run.say(f"  to take it back before: jobs/promote.py --lake {config.lake} --cancel")
    run.say(f"  to go back after: jobs/rollback.py --lake {config.lake}")


def _scores(pair: tuple[float, float] | None) -> tuple[str, str, str]:
    if pair is None:
        return "", "", ""
    return f"{pair[0]:.4f}", f"{pair[1]:.4f}", f"{pair[1] - pair[0]:+.4f}"


def _probe(found: Moved | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    return f"{found.overlap:.3f}", "-" if found.mean_cosine is None else f"{found.mean_cosine:.3f}"


if __name__ == "__main__":
    main()
