"""How a model in training is judged: on held-out pictures that are read once, before the first step."""

from dataclasses import dataclass

import numpy as np

from agman.errors import InvalidInput
from agman.model import AGMAN, Network
from agman.taxonomy import Taxonomy
from agman.transforms import Preprocess
from pipelines import evaluation
from pipelines.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Validation:
    """The pictures that judge a training, decoded, with who asks whom."""

    held_out: evaluation.HeldOut
    taxonomy: Taxonomy


def load_validation(
    dataset: Dataset, taxonomy: Taxonomy, preprocess: Preprocess, *, limit: int
) -> Validation:
    """Read the validation pictures of a dataset.

    Args:
        dataset: tars with roles and labels.
        taxonomy: the attributes that the model learns.
        preprocess: how pictures are read.
        limit: most pictures.

    Raises:
        InvalidInput: if there is nothing to validate with.
    """
    held_out = evaluation.load_held_out(dataset, taxonomy, preprocess, roles=("valid",), limit=limit)
    labelled = np.any(np.concatenate(held_out.values, axis=1), axis=1)
    if not labelled[held_out.is_query].any() or not labelled[~held_out.is_query].any():
        raise InvalidInput(
            f"dataset {dataset.name}: expected at least 4 pictures of role valid that are labelled with "
            f"{', '.join(taxonomy.names)}, found {int(labelled.sum())} among {len(labelled)}; a larger "
            "catalog, a `labels` column, or columns named like FashionAI's attributes, give them"
        )
    return Validation(held_out, taxonomy)


def validate(model: Network, validation: Validation, preprocess: Preprocess) -> float:
    """Return the query-weighted MAP in [0, 1] of a network in eval mode."""
    assert isinstance(model, AGMAN)
    return evaluation.validate(model, validation.held_out, validation.taxonomy, preprocess)
