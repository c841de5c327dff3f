"""Drawn pictures as a source: a catalog that needs no download and changes every night as a shop's does."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice

import pyarrow as pa

from agman.errors import InvalidInput
from pipelines.sources.allowed import Allowed, Place
from pipelines.sources.records import BATCH_ROWS, label_maps, record_batch

_SHOP_TYPES = {
    "sku": pa.string(),
    "brand": pa.string(),
    "category": pa.string(),
    "price": pa.float64(),
    "season": pa.string(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedSource:
    """A drawn catalog on one of its nights.

    Night 1 is revision 0 of the first keys. Each later night deletes, edits (the next revision) and adds in
    equal shares. All of it follows from `seed` and `night`.
    """

    num_images: int = 3000
    """Pictures on every night, 2 or more."""
    seed: int = 0
    """Another seed is another catalog."""
    night: int = 1
    """1 is the first."""
    size: int = 256
    """Side of the drawn pictures in pixels."""
    change: float = 0.02
    """Share of the catalog that changes from one night to the next: a third each deleted, edited, added."""

    def __post_init__(self) -> None:
        """Refuse values that make no catalog."""
        for name, holds, expected in (
            ("num_images", self.num_images >= 2, "2 or more"),
            ("night", self.night >= 1, "1 or more"),
            ("size", 16 <= self.size <= 4096, "16 to 4096 pixels"),
            ("change", 0 <= self.change <= 1, "a share from 0 to 1"),
        ):
            if not holds:
                raise InvalidInput(
                    f"generated source: {name} must be {expected}, found {getattr(self, name)}"
                )

    @property
    def name(self) -> str:
        """For people: what is drawn."""
        return f"generated ({self.num_images} images, seed {self.seed}, night {self.night})"

    @property
    def allowed(self) -> Allowed:
        """What is drawn, and nothing else."""
        return Allowed((Place("generated"),))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Describe the night's pictures without drawing them.

        Yields:
            RECORD_FIELDS with labels, then sku, brand, category, price and season.
        """
        catalog = iter(sorted(self.revisions().items()))
        while chunk := list(islice(catalog, BATCH_ROWS)):
            yield self._batch(chunk)

    def revisions(self) -> dict[int, int]:
        """Return picture number -> revision of everything in the catalog tonight.

        A third of the change is deleted, a third edited, a third added; at least one of each unless `change`
        is 0.
        """
        alive = dict.fromkeys(range(self.num_images), 0)
        num_each = (
            min(max(1, round(self.change * self.num_images / 3)), self.num_images // 2) if self.change else 0
        )
        for night in range(2, self.night + 1):
            touched = random.Random(f"{self.seed}/{night}").sample(sorted(alive), 2 * num_each)
            first_new = self.num_images + (night - 2) * num_each
            for number in touched[:num_each]:
                del alive[number]
            for number in touched[num_each:]:
                alive[number] += 1
            alive.update(dict.fromkeys(range(first_new, first_new + num_each), 0))
        return alive

    def _batch(self, pictures: list[tuple[int, int]]) -> pa.RecordBatch:
        from pipelines.sources import drawing  # only the demonstration draws; a shop's run need not load it

        keys = [f"style-{number:06d}" for number, _ in pictures]
        revisions = [revision for _, revision in pictures]
        garments = [
            drawing.sample_garment(key, self.seed, revision)
            for key, revision in zip(keys, revisions, strict=True)
        ]
        uris = [
            f"generated:{self.seed}/{revision}/{self.size}/{key}"
            for key, revision in zip(keys, revisions, strict=True)
        ]
        return record_batch(
            keys=pa.array(keys, pa.string()),
            uris=pa.array(uris, pa.string()),
            tokens=pa.array([f"v{revision}" for revision in revisions], pa.string()),
            labels=label_maps(
                [{attribute: [value] for attribute, value in garment.labels.items()} for garment in garments]
            ),
            shop={
                name: pa.array([garment.columns[name] for garment in garments], kind)
                for name, kind in _SHOP_TYPES.items()
            },
        )


def parse_generated(options: str) -> GeneratedSource:
    """Read the options of a generated source.

    Args:
        options: "num_images=3000,seed=0,night=1"; "" for the defaults.

    Returns:
        The source.

    Raises:
        InvalidInput: on an unknown option or a value that is no number.
    """
    kinds = {field.name: field.type for field in fields(GeneratedSource)}
    values: dict[str, float] = {}
    for option in filter(None, options.split(",")):
        name, _, text = option.strip().partition("=")
        if name not in kinds:
            raise InvalidInput(
                f"source generated:{options}: unknown option {name!r}; expected {', '.join(kinds)} "
                "as in generated:num_images=3000,seed=0,night=1"
            )
        try:
            values[name] = float(text) if kinds[name] in (float, "float") else int(text)
        except ValueError as error:
            raise InvalidInput(
                f"source generated:{options}: {name} must be a number, found {text!r}"
            ) from error
    return GeneratedSource(**values)  # type: ignore[arg-type]  # whole numbers were parsed by int above
