"""How a model in training is judged: on held-out pictures that are read once, before the first step."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agman.errors import InvalidInput
from agman.model import Network
from agman.taxonomy import Taxonomy
from agman.transforms import Preprocess
from pipelines.dataset import Dataset
from pipelines.held_out import HeldOut, Positions, by_tar, first_pictures, read_held_out, select_held_out
from pipelines.scoring import MODEL, measure_of, overall, score_attribute
from pipelines.vectors import PictureEmbedder


@dataclass(frozen=True, slots=True)
class Validation:
    """The pictures that judge a training, decoded, with who is compared with whom."""

    held_out: HeldOut
    positions: Positions
    """[N] in `held_out.pictures`."""
    pixels: Tensor
    """[N, 3, S, S] uint8."""


def load_validation(
    dataset: Dataset, taxonomy: Taxonomy, preprocess: Preprocess, *, limit: int
) -> Validation:
    """Read the validation pictures of a dataset.

    Args:
        dataset: tars with roles and labels. Listed triplets of split valid are taken where there are any,
            then the roles valid_query and valid_candidate, else every fourth picture of role valid asks.
        taxonomy: the attributes that the model learns.
        preprocess: how pictures are read.
        limit: most pictures.

    Raises:
        InvalidInput: if there is nothing to validate with.
    """
    held_out = first_pictures(select_held_out(dataset, taxonomy, "valid"), limit)
    side = preprocess.image_size
    pixels = torch.zeros(len(held_out.pictures), 3, side, side, dtype=torch.uint8)
    positions: list[int] = []
    for url, wanted in by_tar(dataset, held_out.pictures).items():
        for position, picture in read_held_out(url, held_out.pictures, wanted, preprocess, Counter()):
            pixels[len(positions)] = picture  # in place: a list that is stacked would hold them all twice
            positions.append(position)
    kept = np.zeros(len(held_out.pictures), bool)
    kept[positions] = True
    if not held_out.only(kept).attributes:
        raise InvalidInput(
            f"dataset {dataset.name}: expected at least 4 pictures of role valid that are labelled with "
            f"{', '.join(taxonomy.names)}, found {len(positions)} that can be compared; a larger catalog, a "
            "`labels` column, or columns named like FashionAI's attributes, give them"
        )
    return Validation(held_out, np.array(positions, np.int64), pixels[: len(positions)])


def validate(model: Network, validation: Validation, preprocess: Preprocess) -> float:
    """Judge a network in training.

    Args:
        model: on any device; its running statistics are used, whatever its mode.
        validation: what `load_validation` gave.
        preprocess: gives mean and std.

    Returns:
        Query-weighted MAP in [0, 1], with listed triplets their accuracy; 0 for a network that has diverged.
    """
    vectors = PictureEmbedder(model, preprocess).embed(validation.pixels)
    if not np.isfinite(vectors).all():
        return 0.0
    held_out = validation.held_out
    scored = {
        str(attribute): score_attribute(
            held_out, attribute, validation.positions, {MODEL: torch.from_numpy(vectors[:, attribute])}
        )
        for attribute in held_out.attributes
    }
    rows = {name: row for name, row in scored.items() if row is not None}
    measure = measure_of(next(iter(rows.values())))
    return float(overall(rows, (measure,))["query_weighted"][measure])
