"""The bodies of answers: names and types are a contract with who calls the service."""

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel

from pipelines.asking import Answer, Query
from pipelines.parts import Shown
from pipelines.serving.loaded import Loaded

DIGITS = 6


class Health(BaseModel):
    """Whether the service answers."""

    status: Literal["ok"] = "ok"
    snapshot: str


class Snapshot(BaseModel):
    """What is served."""

    snapshot: str
    model: str
    published_at: str
    num_products: int
    attributes: int
    """How many."""


class AttributeValues(BaseModel):
    """An attribute that can be asked about."""

    name: str
    values: list[str]


class ColumnValues(BaseModel):
    """A column of the catalog's own: numbers and dates have bounds, texts and flags values."""

    name: str
    type: Literal["string", "number", "boolean", "date"]
    min: float | str | None = None
    max: float | str | None = None
    values: list[str | bool] | None = None
    """The most frequent ones; none where they tell products apart, as an article number does."""
    num_values: int | None = None
    """How many different ones there are."""


class Attributes(BaseModel):
    """What can be asked about, and filtered by."""

    attributes: list[AttributeValues]
    columns: list[ColumnValues]


class Prediction(BaseModel):
    """What the model says that a picture shows of an attribute."""

    value: str | None
    score: float | None
    applies: bool | None


class QueryPicture(BaseModel):
    """The picture that was searched with."""

    key: str | None
    predicted: dict[str, Prediction]
    columns: dict[str, Any] | None
    """Of a product."""


class Result(BaseModel):
    """A product that was found."""

    key: str
    score: float
    """Weighted mean of cosines."""
    scores: dict[str, float]
    """Cosine by attribute."""
    predicted: dict[str, Prediction]
    columns: dict[str, Any]
    picture: str
    """Its address."""


class SearchAnswer(BaseModel):
    """What looks like the query, best first."""

    snapshot: str
    query: QueryPicture
    num_left_out: int
    """Products that the model says lack an attribute that the query has."""
    results: list[Result]


class Product(BaseModel):
    """A product of the catalog."""

    key: str
    predicted: dict[str, Prediction]
    columns: dict[str, Any]
    picture: str


class Products(BaseModel):
    """Some products of the catalog, in the order of their keys."""

    snapshot: str
    total: int
    """That there are, on all pages."""
    products: list[Product]


def picture_address(key: str) -> str:
    """Return where a product's picture is; slashes stay where no browser would take them for a step."""
    steps = key.split("/")
    return f"/pictures/{quote(key, safe='' if {'', '.', '..'} & set(steps) else '/')}"


def predictions(shows: Mapping[str, Shown]) -> dict[str, Prediction]:
    """Return what the model says, by attribute."""
    return {
        name: Prediction(value=shown.value, score=_rounded(shown.score), applies=shown.applies)
        for name, shown in shows.items()
    }


def search_answer(loaded: Loaded, query: Query, found: Answer) -> SearchAnswer:
    """Return what was found as a body."""
    row = query.row
    return SearchAnswer(
        snapshot=loaded.id,
        query=QueryPicture(
            key=row["key"] if row else None,
            predicted=predictions(query.shows),
            columns=loaded.columns_of(row) if row else None,
        ),
        num_left_out=found.num_left_out,
        results=[
            Result(
                key=hit.key,
                score=round(hit.score, DIGITS),
                scores={name: round(score, DIGITS) for name, score in hit.scores.items()},
                predicted=predictions(hit.shows),
                columns=loaded.columns_of(hit.row),
                picture=picture_address(hit.key),
            )
            for hit in found.hits
        ],
    )


def products_answer(loaded: Loaded, rows: list[dict[str, Any]], total: int) -> Products:
    """Return products of a page as a body."""
    return Products(
        snapshot=loaded.id,
        total=total,
        products=[
            Product(
                key=row["key"],
                predicted=predictions(shows),
                columns=loaded.columns_of(row),
                picture=picture_address(row["key"]),
            )
            for row, shows in zip(rows, loaded.searcher.shown_on_all(rows), strict=True)
        ],
    )


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, DIGITS)
