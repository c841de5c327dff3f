"""A snapshot's model, loaded to look at the pictures that people search with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agman.checkpoint import LoadedModel, load_model
from agman.embedder import Embedder
from agman.errors import BadSample, InvalidInput
from agman.transforms import MAX_PIXELS, normalise, read_pixels
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.parts import Shown
from pipelines.values import said_of


@dataclass(frozen=True, slots=True)
class Seen:
    """What the model makes of one picture."""

    vectors: dict[str, np.ndarray]
    """[D] unit vector by attribute."""
    attention: np.ndarray
    """[A, h, w], where each attribute looked."""


class QueryModel:
    """A model and its folded network; from several threads."""

    def __init__(self, loaded: LoadedModel, device: str = "cpu") -> None:
        """Fold the network on a device."""
        self.loaded = loaded
        self._device = device
        self._embedder = Embedder(loaded.model.to(device))

    @classmethod
    def open(cls, lake: Lake, model: str, device: str = "cpu") -> "QueryModel":
        """Load a model of a lake."""
        with fetch_model(lake, model) as folder:
            return cls(load_model(folder), device)

    @property
    def attributes(self) -> tuple[str, ...]:
        """In the order of the network's tables."""
        return self.loaded.taxonomy.names

    @property
    def attribute_values(self) -> dict[str, tuple[str, ...]]:
        """The values that an attribute knows, by attribute."""
        return {attribute.name: attribute.values for attribute in self.loaded.taxonomy}

    def read(self, encoded: bytes, *, max_pixels: int = MAX_PIXELS) -> Tensor:
        """Decode a picture to what the network looks at: [3, S, S] uint8.

        Raises:
            BadSample: if it is no usable picture.
        """
        return read_pixels(encoded, self.loaded.preprocess, max_pixels=max_pixels)

    def see(self, pictures: Sequence[Tensor]) -> list[Seen]:
        """Embed B decoded pictures in one pass."""
        batch = normalise(torch.stack(list(pictures)).to(self._device), self.loaded.preprocess)
        embedded = self._embedder.embed_with_attention(batch)
        vectors, attention = embedded.embedding.cpu().numpy(), embedded.attention.cpu().numpy()
        return [
            Seen(dict(zip(self.attributes, each, strict=True)), looked)
            for each, looked in zip(vectors, attention, strict=True)
        ]

    def embed(self, encoded: bytes) -> dict[str, np.ndarray]:
        """Embed one picture; returns [D] by attribute.

        Raises:
            InvalidInput: if it is no usable picture.
        """
        try:
            return self.see([self.read(encoded)])[0].vectors
        except BadSample as error:
            raise InvalidInput(f"query picture: {error}") from error

    def shown_by(self, vectors: Mapping[str, np.ndarray]) -> dict[str, Shown]:
        """Return what the model says of an embedded picture, by attribute; {} if it knows no values."""
        stacked = np.stack([vectors[name] for name in self.attributes])
        return {
            name: Shown(**table.to_pylist()[0]) for name, table in said_of(self.loaded, stacked[None]).items()
        }
