"""Random nights against a dictionary: whatever happens to catalog and runs, this is what is served.

`HYPOTHESIS_NIGHTS=200` tries more of them than the suite does.
"""

import hashlib
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import make_model
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from inline_ray import inline_ray
from narrow_trunk import narrow
from PIL import Image
from served import served

from agman.checkpoint import load_model
from agman.embedder import Embedder
from agman.taxonomy import FASHIONAI, Taxonomy
from agman.transforms import normalise, read_pixels
from pipelines.embedding import EmbedOptions
from pipelines.index import IndexOptions
from pipelines.lake import Lake
from pipelines.lineage import find_damage
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.rollback import roll_back
from pipelines.shards.plan import ShardOptions
from pipelines.storage.local import LocalStore
from pipelines.storage.snapshots import current_manifest, read_pointer
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

WRITES = ("put_if_absent", "upload_if_absent", "compare_and_swap", "delete")
BROKEN = b"no picture, whatever its name says"
numbers = st.integers(0, 5)


class Crash(BaseException):
    """Ends a run as a kill does: nothing of ours catches it."""


class Nights(RuleBasedStateMachine):
    """A shop that changes its pictures, runs nights, breaks them off, rolls back and cleans up."""

    models: tuple[Path, Path]
    references: dict[tuple[str, str], np.ndarray]

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nights-"))
        self.source = self.folder / "pictures"
        self.source.mkdir()
        self.lake = Lake(str(self.folder / "lake"))
        self.drawn = 0
        self.model = 0
        self.history: list[tuple[str, int, dict[str, str]]] = []
        """What was published, in turn: snapshot, model, key -> digest."""
        self.serving: tuple[str, int, dict[str, str]] | None = None
        self.is_checked = True
        self.draw("0.png")

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)

    def draw(self, name: str) -> None:
        self.drawn += 1
        noise = np.random.default_rng(self.drawn).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(self.source / name, "PNG")

    def pictures(self) -> list[Path]:
        return sorted(self.source.iterdir())

    @rule(number=numbers)
    def draw_or_edit(self, number: int) -> None:
        self.draw(f"{number}.png")

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        if len(self.pictures()) > 1:
            (self.source / f"{number}.png").unlink(missing_ok=True)

    @rule(number=numbers, other=numbers)
    def rename(self, number: int, other: int) -> None:
        if (self.source / f"{number}.png").exists():
            (self.source / f"{number}.png").replace(self.source / f"{other}.png")

    @rule(number=numbers, other=numbers)
    def double(self, number: int, other: int) -> None:
        if number != other and (self.source / f"{number}.png").exists():
            shutil.copyfile(self.source / f"{number}.png", self.source / f"{other}.png")

    @rule(number=numbers)
    def break_one(self, number: int) -> None:
        (self.source / f"{number}.png").write_bytes(BROKEN)

    @rule()
    def choose_another_model(self) -> None:
        self.model = 1 - self.model

    @rule()
    def night(self) -> None:
        published = self.run()
        good = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.pictures()
            if path.read_bytes() != BROKEN
        }
        if published is None:
            assert self.serving is not None
            assert self.serving[1:] == (self.model, good)
            return
        self.serving = (published.id, self.model, good)
        self.history.append(self.serving)
        self.is_checked = False

    @rule(at=st.integers(0, 30), after=st.booleans())
    def night_that_is_killed(self, at: int, after: bool) -> None:
        before = read_pointer(self.lake)
        with ExitStack() as stack:
            count = 0

            def watched(write: Any) -> Any:
                def call(*arguments: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count > at and not after:
                        raise Crash
                    result = write(*arguments)
                    if count > at:
                        raise Crash
                    return result

                return call

            for name in WRITES:
                stack.enter_context(patch.object(LocalStore, name, watched(getattr(LocalStore, name))))
            try:
                self.run()
            except Crash:
                pass
        if read_pointer(self.lake) != before:  # it came as far as the swap: the night is published
            good = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in self.pictures()
                if path.read_bytes() != BROKEN
            }
            self.serving = (read_pointer(self.lake).snapshot, self.model, good)
            self.history.append(self.serving)
        self.is_checked = False

    @precondition(lambda self: len(self.history) > 1)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        others = [each for each in self.history if each != self.serving]
        chosen = data.draw(st.sampled_from(others))
        roll_back(self.lake, chosen[0])
        self.serving = chosen
        self.is_checked = False

    @invariant()
    def what_is_served_is_what_was_published(self) -> None:
        if getattr(self, "is_checked", True) or self.serving is None:
            return
        self.is_checked = True
        snapshot, model, expected = self.serving
        manifest = current_manifest(self.lake)
        assert manifest.id == snapshot
        found = served(self.lake)
        assert {key: digest for key, (digest, _) in found.items()} == expected
        for key, (digest, vectors) in found.items():
            reference = self.reference(model, digest, manifest, key)
            for index, attribute in enumerate(manifest.attributes):
                vector = np.frombuffer(vectors[attribute], np.float32)
                assert float(vector @ reference[index]) > 0.9999 * np.linalg.norm(vector)
        assert find_damage(self.lake, manifest) == []

    def run(self) -> Any:
        config = NightConfig(
            lake=self.lake.url,
            source=str(self.source),
            model=str(self.models[self.model]),
            shards=ShardOptions(images_per_shard=2),
            embed=EmbedOptions(num_workers=1, precision="float32"),
            index=IndexOptions(parts_per_group=8, max_small_groups=2),
        )
        with inline_ray(), patch("builtins.print"):
            return run_night(config, Run("nightly", config, self.lake))

    def reference(self, model: int, digest: str, manifest: Any, key: str) -> np.ndarray:
        """Return a picture's embeddings [A, D] as the network alone gives them."""
        if (str(model), digest) not in self.references:
            from pipelines.search import Searcher

            with Searcher(self.lake, manifest) as searcher:
                encoded = searcher.picture_of(searcher.row_of(key))
            loaded, embedder = self.loaded[model]
            pixels = normalise(read_pixels(encoded, loaded.preprocess)[None], loaded.preprocess)
            self.references[str(model), digest] = embedder.embed(pixels)[0].numpy()
        return self.references[str(model), digest]


@pytest.mark.timeout(1200)
def test_whatever_happens_what_was_published_is_served(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    taxonomy = Taxonomy(FASHIONAI.attributes[:2])
    Nights.models = tuple(
        make_model(tmp_path_factory.mktemp(f"model-{seed}"), taxonomy, seed=seed) for seed in (0, 1)
    )
    torch.set_num_threads(1)
    loaded = [load_model(folder) for folder in Nights.models]
    Nights.loaded = [(each, Embedder(each.model, dtype=torch.float32)) for each in loaded]
    Nights.references = {}
    examples = int(os.environ.get("HYPOTHESIS_NIGHTS", "12"))
    run_state_machine_as_test(
        Nights,
        settings=settings(
            max_examples=examples,
            stateful_step_count=14,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
