"""Values in words: fit a model's prototypes to its training pictures, and write down what they say."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from agman.checkpoint import LoadedModel
from agman.prototypes import UNKNOWN
from pipelines.parts import VALUE_SCHEMA


def said_of(loaded: LoadedModel, embeddings: np.ndarray) -> dict[str, pa.Table]:
    """Return what a model says of embeddings, by attribute as rows of VALUE_SCHEMA; empty without prototypes.

    Args:
        loaded: the model.
        embeddings: [B, A, D] unit vectors, rounded to what is stored, so that a reader finds the same.
    """
    if loaded.prototypes is None:
        return {}
    values, score = (part.numpy() for part in loaded.prototypes.predict(torch.from_numpy(embeddings)))
    return {
        attribute.name: value_rows(attribute.values, values[:, index], score[:, index])
        for index, attribute in enumerate(loaded.taxonomy)
    }


def value_rows(names: Sequence[str], values: np.ndarray, score: np.ndarray) -> pa.Table:
    """Return what was predicted of one attribute as rows of VALUE_SCHEMA.

    Args:
        names: of the attribute's values.
        values: [B] positions in `names`, ABSENT or UNKNOWN.
        score: [B] float32; read where there is a value.
    """
    has_value = values >= 0
    chosen = [names[value] if value >= 0 else None for value in values.tolist()]
    return pa.table(
        [
            pa.array(chosen, pa.string()),
            pa.array(score, pa.float32(), mask=~has_value),
            pa.array(has_value, pa.bool_(), mask=values == UNKNOWN),
        ],
        schema=VALUE_SCHEMA,
    )
