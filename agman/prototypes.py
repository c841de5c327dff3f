"""What an embedding says in words: the value of each attribute, or that the attribute does not apply.

A value's prototype is the mean direction of the training pictures that show it. A picture has the value whose
prototype is nearest; its score is the softmax of the cosine among all values of the attribute.

Whether an attribute applies at all (there is no neckline on trousers) is asked of a linear probe, where
training pictures are known not to have the attribute: see `Evidence`. Elsewhere the nearest prototype must be
about as near as it is to the training pictures themselves, which only refuses what looks like none of them:
the value that is named there is what the picture shows if it has the attribute, see `is_asked`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from agman.errors import CheckpointMismatch
from agman.taxonomy import Taxonomy

ABSENT = -1
"""In place of a value: the attribute does not apply to the picture."""
UNKNOWN = -2
"""In place of a value: no training picture showed one, so nothing can be said."""
INVISIBLE = "invisible"
"""The value by which a data set says that an attribute does not apply; it is never predicted as a value."""


class Predicted(NamedTuple):
    """What the embeddings of B pictures say."""

    values: Tensor
    """[B, A] int64: positions in the attribute's values, ABSENT or UNKNOWN."""
    score: Tensor
    """[B, A] float32: probability of the value among the attribute's values; 0 where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """Of A attributes with at most V values, for embeddings of D dimensions; on the CPU."""

    centres: Tensor
    """[A, V, D] float32 unit vectors; 0 where a value has no prototype."""
    known: Tensor
    """[A, V] bool: the values with a prototype."""
    scale: Tensor
    """[A] float32: cosines times this are the logits of the values."""
    probe: Tensor
    """[A, A, D] float32: by attribute, weights of all A embeddings of a picture."""
    bias: Tensor
    """[A] float32: an attribute applies where the probe's sum and this are above 0; 1 asks nothing."""
    floor: Tensor
    """[A] float32: least cosine with the nearest prototype where an attribute applies; -1 asks nothing."""

    @property
    def is_asked(self) -> Tensor:
        """[A] bool: the attributes with a probe, of which a named value says that the picture has them."""
        return self.probe.flatten(1).any(dim=1)

    def predict(self, embeddings: Tensor) -> Predicted:
        """Say what pictures show.

        Args:
            embeddings: [B, A, D] unit vectors.
        """
        embeddings = embeddings.float().cpu()
        cosines = torch.einsum("bad,avd->bav", embeddings, self.centres)
        cosines = cosines.masked_fill(~self.known, -torch.inf)
        nearest, values = cosines.max(dim=2)
        applies = embeddings.flatten(1) @ self.probe.flatten(1).T + self.bias > 0
        values = values.where(applies & (nearest >= self.floor), ABSENT)
        values = values.where(self.known.any(dim=1), UNKNOWN)
        logits = self.scale[:, None] * (cosines - nearest.unsqueeze(2))
        return Predicted(values, (1 / logits.exp().sum(dim=2)).where(values >= 0, 0.0))

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, as `from_tensors` reads them back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], taxonomy: Taxonomy, dim: int) -> "Prototypes":
        """Read what `tensors` gave.

        Args:
            tensors: by name.
            taxonomy: the model's attributes.
            dim: D.

        Raises:
            CheckpointMismatch: naming the first tensor that is not of this taxonomy and dimension.
        """
        attributes, values = len(taxonomy), most_values(taxonomy)
        shapes = {
            "centres": (attributes, values, dim),
            "known": (attributes, values),
            "probe": (attributes, attributes, dim),
        }
        for field in fields(cls):
            expected = shapes.get(field.name, (attributes,))
            dtype = torch.bool if field.name == "known" else torch.float32
            found = tensors.get(field.name)
            if found is None or tuple(found.shape) != expected or found.dtype != dtype:
                shown = "nothing" if found is None else f"{tuple(found.shape)} {found.dtype}"
                raise CheckpointMismatch(
                    f"prototypes: {field.name} expected {expected} {dtype}, found {shown}"
                )
            if not bool(torch.isfinite(found).all()):
                raise CheckpointMismatch(f"prototypes: {field.name} holds values that are not finite")
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})


def most_values(taxonomy: Taxonomy) -> int:
    """Return V, the number of values of the attribute that has most."""
    return max(len(attribute.values) for attribute in taxonomy)
