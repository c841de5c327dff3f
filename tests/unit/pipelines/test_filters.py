"""Filters: what is asked of columns of every kind, and what no column can hold."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agman.errors import InvalidInput
from pipelines.filters import MAX_VALUES, parse_filters, select_rows
from pipelines.products import Products

ODD = 'a "quoted" name; drop table'
ROWS = 60


@pytest.fixture
def products(tmp_path: Path) -> Products:
    numbers = range(ROWS)
    table = {
        "key": [f"k{number:02d}" for number in numbers],
        "uri": ["/secret"] * ROWS,
        "sha256": [f"{number // 2}" for number in numbers],
        "brand": ["A" if number % 3 else "it's" for number in numbers],
        "sku": [f"sku-{number}" for number in numbers],
        ODD: ["x" if number < 5 else None for number in numbers],
        "price": pa.array([Decimal(number) / 4 for number in numbers], pa.decimal128(9, 2)),
        "weight": [float("nan") if number == 7 else number / 2 for number in numbers],
        "stock": pa.array(list(numbers), pa.uint8()),
        "is_new": [number % 2 == 0 for number in numbers],
        "added": [datetime(2026, 1, 1 + number % 28, 12) for number in numbers],
        "until": [date(2026, 2, 1 + number % 28) for number in numbers],
        "kind": pa.array(["top" if number < 30 else "dress" for number in numbers]).dictionary_encode(),
        "sizes": [["s"]] * ROWS,
        "labels": pa.array([[("a", ["b"])]] * ROWS, pa.map_(pa.string(), pa.list_(pa.string()))),
    }
    pq.write_table(pa.table(table), tmp_path / "catalog.parquet")
    return Products(tmp_path / "catalog.parquet", "one")


def chosen(products: Products, asked: Any) -> list[int]:
    filters = products.filters_of(asked)
    return list(np.flatnonzero(select_rows(products.cursor(), "numbered", ROWS, filters)))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, lambda n: True),
        ({"brand": ["it's"]}, lambda n: n % 3 == 0),
        ({"brand": ["it's", "A"]}, lambda n: True),
        ({"brand": ["' or true --"]}, lambda n: False),
        ({ODD: ["x"]}, lambda n: n < 5),
        ({"price": {"min": 1, "max": 2.5}}, lambda n: 1 <= n / 4 <= 2.5),
        ({"price": [0.25, 10]}, lambda n: n in (1, 40)),
        ({"stock": {"min": -1e18, "max": 9}}, lambda n: n <= 9),
        ({"stock": [1.5]}, lambda n: False),
        ({"is_new": [False], "stock": {"max": 4}}, lambda n: n in (1, 3)),
        ({"until": {"min": "2026-02-28"}}, lambda n: n % 28 == 27),
        ({"added": {"max": "2026-01-01T12:00:00"}}, lambda n: n % 28 == 0),
        ({"kind": ["dress"]}, lambda n: n >= 30),
        ({"weight": {"min": 2, "max": None}}, lambda n: n >= 4 and n != 7),  # which is NaN
    ],
)
def test_what_is_asked_is_chosen(products: Products, asked: Any, expected: Any) -> None:
    assert chosen(products, asked) == [n for n in range(ROWS) if expected(n)]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "expected an object"),
        ({"colour": ["red"]}, "unknown column 'colour'"),
        ({"uri": ["/secret"]}, "unknown column 'uri'"),
        ({"sizes": ["s"]}, "unknown column 'sizes'"),
        ({"brand": []}, "expected 1 to 200 values"),
        ({"brand": ["x"] * (MAX_VALUES + 1)}, "expected 1 to 200 values"),
        ({"brand": "A"}, "expected a list of values"),
        ({"brand": {"min": "A"}}, "expected a list of values"),
        ({"brand": [None]}, "expected a string, found null"),
        ({"brand": ["a\0b"]}, "expected a string"),
        ({"price": [True]}, "expected a number, found true"),
        ({"price": {"min": float("nan")}}, "expected a number"),
        ({"price": {"min": 10**400}}, "expected a number"),
        ({"price": {"least": 1}}, "expected min, max or both"),
        ({"price": {}}, "expected min, max or both"),
        ({"is_new": [1]}, "expected a boolean"),
        ({"until": ["yesterday"]}, "expected a date"),
    ],
)
def test_what_no_column_holds_is_refused(products: Products, asked: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        products.filters_of(asked)


def test_the_same_conditions_are_equal() -> None:
    columns = {"a": "string", "b": "number"}
    one = parse_filters({"a": ["x", "y"], "b": {"min": 1}}, columns)
    other = parse_filters({"b": {"min": 1}, "a": ["y", "x", "y"]}, columns)
    assert one == other
    assert hash(one) == hash(other)


def test_columns_say_what_they_hold(products: Products) -> None:
    found = {column.name: column for column in products.describe_columns()}
    assert list(found) == [
        "brand", "sku", ODD, "price", "weight", "stock", "is_new", "added", "until", "kind",
    ]  # fmt: skip
    assert (found["brand"].values, found["brand"].num_values) == (("A", "it's"), 2)
    assert (found["sku"].values, found["sku"].num_values) == ((), ROWS)
    assert (found["price"].min, found["price"].max) == (0.0, 14.75)
    assert (found["weight"].min, found["weight"].max) == (0.0, 29.5)
    assert (found["until"].min, found["until"].max) == ("2026-02-01", "2026-02-28")
    assert found["kind"].values == ("dress", "top")


def test_products_are_found_by_key_text_and_column(products: Products) -> None:
    assert products.pictures_where("kind", "top") == {str(number) for number in range(15)}
    with pytest.raises(InvalidInput, match="unknown column 'uri'"):
        products.pictures_where("uri", "/secret")
    numbers = products.numbers_with("IT'S").tolist()
    assert numbers == sorted(numbers)
    assert len(numbers) == 20
    assert {products.find(f"k{number:02}")["brand"] for number in numbers} == {"it's"}
    assert products.numbers_with("%").tolist() == []
    assert products.find("k01")["brand"] == "A"
    assert products.find("k") is None
