"""One question from its picture to its answer: what `jobs/search.py` and the service do alike."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agman.errors import InvalidInput
from pipelines.filters import Filters
from pipelines.parts import Shown
from pipelines.search import Hit, Searcher, attributes_had


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A picture that is searched with."""

    vectors: Mapping[str, np.ndarray]
    """[D] unit vector by attribute."""
    shows: Mapping[str, Shown]
    """By attribute, what the model says that it shows."""
    row: Mapping[str, Any] | None = None
    """Its row of the catalog, where it is a product."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked about it."""

    weights: Mapping[str, float]
    """By attribute, as `Searcher.check_weights` gives them."""
    k: int
    include_absent: bool = False
    """Also products that the model says lack an attribute that the query has."""
    filters: Filters = ()
    exclude: Collection[str] = field(default=())
    """sha256 of pictures that are no answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was found."""

    hits: list[Hit]
    having: tuple[str, ...]
    """Attributes that the query has: products that lack one were left out."""
    num_left_out: int
    """How many these are."""


def parse_weights(words: Iterable[str], where: str) -> dict[str, float]:
    """Read `name` and `name=weight`.

    Args:
        words: one for each attribute.
        where: they stand, for the message.

    Raises:
        InvalidInput: if a weight is not a number.
    """
    weights = {}
    for word in words:
        name, _, weight = word.strip().partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise InvalidInput(f"{where} {word}: expected NAME=NUMBER, found {weight!r}") from None
    return weights


def query_of_product(searcher: Searcher, row: Mapping[str, Any], attributes: Collection[str]) -> Query:
    """Return a product as a query, with the vectors of some attributes."""
    return Query(vectors=searcher.vectors_of(row, attributes), shows=searcher.shown_on(row), row=row)


def query_of_vectors(searcher: Searcher, vectors: Mapping[str, np.ndarray]) -> Query:
    """Return a picture that the snapshot's model embedded as a query."""
    return Query(vectors=vectors, shows=searcher.shown_by(vectors))


def ask(searcher: Searcher, query: Query, question: Question) -> Answer:
    """Search for what looks like a query in the attributes that are asked about."""
    having = () if question.include_absent else tuple(attributes_had(query.shows, question.weights))
    hits = searcher.search(
        query.vectors, question.weights, question.k, question.exclude, having, question.filters
    )
    return Answer(hits=hits, having=having, num_left_out=searcher.count_hidden(having, question.filters))
