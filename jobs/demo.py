"""Show the whole line on a generated catalog: shard, train, evaluate, two nights, searches, a report.

What exists in the lake already is reused, so a second run takes seconds.

    make demo
    python jobs/demo.py --lake ./demo-lake
    ray job submit --working-dir . -- python jobs/demo.py --lake s3://shop-lake/demo
"""

from dataclasses import dataclass, replace
from pathlib import Path

from jobs.command_line import read_config
from jobs.evaluate import show_scores
from jobs.recipes import DEMO_IMAGES, DEMO_LAKE, NIGHT, TRAIN
from jobs.search import SearchConfig, answer
from jobs.train import train_and_judge
from pipelines import telemetry
from pipelines.cluster import connected
from pipelines.lake import Lake, snapshot_file
from pipelines.models import list_models, read_metrics
from pipelines.nightly import run_night
from pipelines.search import open_searcher
from pipelines.sources.drawing import draw_jpeg
from pipelines.storage.snapshots import Manifest, read_manifest, read_pointer
from pipelines.telemetry import Run

NIGHTS = 2
UNSEEN_KEY, UNSEEN_SEED = "street-photo", 7


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """The demo's size; the defaults fit 12 minutes on 2 cores, installation included."""

    lake: str = DEMO_LAKE
    """Root of the demo's lake: a local folder or s3://bucket/prefix."""
    num_images: int = DEMO_IMAGES
    """Products of the generated catalog."""
    steps: int = TRAIN["demo"][1].steps
    """Training steps."""

    def source(self, night: int) -> str:
        """Return the catalog of a night: 2% of it change from one to the next."""
        return f"generated:num_images={self.num_images},seed=0,night={night}"


def main() -> None:
    """Run the demo."""
    config = read_config({"demo": ("", DemoConfig())}, __doc__)
    lake = Lake(config.lake)
    with telemetry.run("demo", config, lake) as run, connected():
        run.headline("1/5 train AG-MAN on a generated catalog of product pictures")
        model = _model(config, lake, run)
        for night in range(1, NIGHTS + 1):
            run.headline(f"{night + 1}/5 night {night}: {_describe(night)}")
            manifest = _night(config, lake, night, model, run)
        run.headline("4/5 search")
        _search(config, lake, run)
        run.headline("5/5 where things are")
        _sum_up(config, manifest, run)


def _model(config: DemoConfig, lake: Lake, run: Run) -> str:
    """Train, or take the model that an earlier demo trained."""
    for model in list_models(lake):
        scores = read_metrics(lake, model, TRAIN["demo"][1].dataset)
        if scores:
            run.say(f"  model {model} is there already")
            show_scores(run, model, scores)
            return model
    recipe = TRAIN["demo"][1]
    steps = config.steps
    every = min(recipe.validate_every, steps)
    return train_and_judge(
        replace(recipe, lake=config.lake, source=config.source(1), steps=steps, validate_every=every), run
    )


def _describe(night: int) -> str:
    return "embed everything" if night == 1 else "2% of the catalog changed, embed only that"


def _night(config: DemoConfig, lake: Lake, night: int, model: str, run: Run) -> Manifest:
    """Run a night that is not published yet; return the published manifest."""
    pointer = read_pointer(lake)
    published = read_manifest(lake, pointer.snapshot) if pointer else None
    if published is not None and published.night >= night:
        run.say(f"  snapshot {published.id} (night {published.night}) is published already")
        return published
    night_config = replace(NIGHT["demo"][1], lake=config.lake, source=config.source(night), model=model)
    with telemetry.run("nightly", night_config, lake) as night_run:
        manifest = run_night(night_config, night_run)
    if manifest is None:
        raise SystemExit("the night found nothing to publish")
    counts = manifest.counts
    run.say(
        f"  published {manifest.id}: {counts['images_embedded']} pictures embedded "
        f"({counts['added']} added, {counts['edited']} edited), {counts['reused']} reused, "
        f"{counts['deleted']} deleted, {counts['quarantined']} quarantined"
    )
    return manifest


def _search(config: DemoConfig, lake: Lake, run: Run) -> None:
    """Ask three questions: by product, by product and weights, by a picture that the catalog never saw."""
    folder = Path(config.lake) if "://" not in config.lake else Path.cwd()
    unseen = folder / "street-photo.jpg"
    unseen.write_bytes(draw_jpeg(UNSEEN_KEY, UNSEEN_SEED))
    asked = SearchConfig(lake=config.lake, k=5)
    skirt, top = _example_key(lake, "skirt_length"), _example_key(lake, "neckline_design")
    for number, search in enumerate(
        (
            replace(asked, key=skirt, attribute=("skirt_length",)),
            replace(asked, key=top, attribute=("neckline_design=0.7", "sleeve_length=0.3")),
            replace(asked, image=str(unseen), attribute=("skirt_length",)),
        ),
        start=1,
    ):
        answer(replace(search, grid=str(folder / f"search-{number}.png")), run)


def _example_key(lake: Lake, attribute: str) -> str:
    """Return a held-out product that carries an attribute."""
    with open_searcher(lake) as searcher:
        return str(searcher.example_rows(attribute, 1)[0]["key"])


def _sum_up(config: DemoConfig, manifest: Manifest, run: Run) -> None:
    lake, key = config.lake, _example_key(Lake(config.lake), "pant_length")
    run.say(f"  published   {lake}/CURRENT.json -> snapshot {manifest.id}, {manifest.night} of {NIGHTS}")
    run.say(f"  report      {lake}/{snapshot_file(manifest.id, 'report.html')}")
    run.say(f"  embeddings  {lake}/embeddings (Parquet)    indexes  {lake}/indexes (FAISS)")
    run.say("try next:")
    run.say(f"  .venv/bin/python jobs/search.py --lake {lake} --key {key} --attribute pant_length")
    run.say(
        f"  .venv/bin/python jobs/nightly.py --lake ./my-lake --source PICTURES "
        f"--model {lake}/models/{manifest.model}"
    )
    run.say(f"  .venv/bin/python jobs/analyze.py --lake {lake}")
    run.say(f"  DuckDB with {lake}/views.sql: docs/analytics.md has questions")


if __name__ == "__main__":
    main()
