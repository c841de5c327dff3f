"""A few searches on a snapshot, as a person would try them, and what is said of a product in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from agman.checkpoint import LoadedModel, load_model
from agman.embedder import Embedder
from agman.transforms import normalise, read_pixels
from pipelines.models import fetch_model
from pipelines.parts import Shown
from pipelines.pictures import attention_overlay, square_thumbnail
from pipelines.search import Hit, Searcher, attributes_had

EXAMPLES_CONSIDERED = 32
EXAMPLE_HITS = 7
PICTURE_PIXELS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchExample:
    """One search as the page shows it."""

    attribute: str
    """What was asked about."""
    query: Image.Image
    """The picture searched with."""
    query_caption: str
    """What the query shows."""
    attention: Image.Image | None
    """Where the network looked, of the query's size; None where that is not known."""
    results: Sequence[tuple[Image.Image, str, bool | None]]
    """Best first: picture, caption, relevant (None where labels do not say)."""


def examples(searcher: Searcher) -> list[SearchExample]:
    """Search for one product per attribute: a held-out one that has it, where labels or the model tell.

    Args:
        searcher: of a snapshot, or of some of its groups.
    """
    if not searcher.manifest.groups:
        return []
    with fetch_model(searcher.lake, searcher.manifest.model) as folder:
        loaded = load_model(folder)
    embedder = Embedder(loaded.model)
    return [
        _example(searcher, loaded, embedder, attribute, _example_row(searcher, attribute))
        for attribute in searcher.attributes
    ]


def _example_row(searcher: Searcher, attribute: str) -> dict[str, Any]:
    """Return a labelled product, else the first that the model does not say to lack the attribute."""
    rows = searcher.example_rows(attribute, EXAMPLES_CONSIDERED)
    fitting = (
        row
        for row in rows
        if shown_values(row, attribute) or searcher.shown_on(row)[attribute].applies is not False
    )
    return next(fitting, rows[0])


def _example(
    searcher: Searcher, loaded: LoadedModel, embedder: Embedder, attribute: str, row: dict[str, Any]
) -> SearchExample:
    encoded = searcher.picture_of(row)
    pixels = read_pixels(encoded, loaded.preprocess)
    embedded = embedder.embed_with_attention(normalise(pixels[None], loaded.preprocess))
    index = loaded.taxonomy.index(attribute)
    query = {attribute: embedded.embedding[0, index].numpy()}
    shows = searcher.shown_on(row)
    having = attributes_had(shows, [attribute])
    hits = searcher.search(query, {attribute: 1.0}, EXAMPLE_HITS, exclude=[row["sha256"]], having=having)
    picture = square_thumbnail(encoded, PICTURE_PIXELS)
    return SearchExample(
        attribute=attribute,
        query=picture,
        query_caption=caption(row, shows, attribute),
        attention=attention_overlay(picture, np.abs(embedded.attention[0, index].numpy())),
        results=[
            (
                square_thumbnail(searcher.picture_of(hit.row), PICTURE_PIXELS),
                f"{hit.score:.2f} · {caption(hit.row, hit.shows, attribute)}",
                is_relevant(row, hit, attribute),
            )
            for hit in hits
        ],
    )


def caption(row: Mapping[str, Any], shows: Mapping[str, Shown], attribute: str) -> str:
    """Return what labels and the model say of a product's attribute, or its key where both are silent."""
    said = (shown_values(row, attribute), predicted(shows[attribute]))
    return " · ".join(filter(None, said)) or str(row["key"])


def predicted(shown: Shown) -> str:
    """Return what a model says of an attribute, marked as such; empty where it says nothing."""
    said = described(shown)
    return f"predicted {said}" if said else ""


def described(shown: Shown) -> str:
    """Return what a model says of an attribute as people read it; empty where it says nothing."""
    if shown.value is not None:
        return f"{shown.value} {shown.score:.2f}"
    return "does not apply" if shown.applies is False else ""


def shown_values(row: Mapping[str, Any], attribute: str) -> str:
    """Return what a product's labels say of an attribute; empty where they say nothing."""
    return ", ".join(dict(row.get("labels") or {}).get(attribute) or ())


def is_relevant(query: Mapping[str, Any], hit: Hit, attribute: str) -> bool | None:
    """Tell whether a hit shares a value with the query; None where either is not labelled."""
    wanted = set(dict(query.get("labels") or {}).get(attribute) or ())
    found = set(dict(hit.row.get("labels") or {}).get(attribute) or ())
    return bool(wanted & found) if wanted and found else None
