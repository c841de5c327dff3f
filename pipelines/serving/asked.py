"""What requests say, read: JSON in fields, weights, filters."""

import json
import math
from typing import Any

from pipelines.asking import parse_weights
from pipelines.filters import shown
from pipelines.serving.refusals import Refusal, refused_at

EXAMPLE_WEIGHTS = '{"neckline_design": 0.7, "sleeve_length": 0.3}'
EXAMPLE_FILTERS = '{"brand": ["Acme"], "price": {"min": 10, "max": 50}}'


def read_json(text: str, where: str, example: str) -> Any:
    """Return the JSON value of a field.

    Raises:
        Refusal: if it is none.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(
            400,
            "A field is not JSON.",
            where=where,
            expected=f"such as {example}",
            found=text[:80],
            do=str(error) if isinstance(error, ValueError) else "Nest it less.",
        ) from None


def read_weights(text: str) -> dict[str, float]:
    """Return the weights of a field: an object of attribute to number.

    Raises:
        Refusal: if it is another thing.
    """
    asked = read_json(text, "attributes", EXAMPLE_WEIGHTS)
    weights = {}
    for name, weight in asked.items() if isinstance(asked, dict) else ():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight):
            raise _no_weights(f"{name}: {shown(weight)}")
        weights[name] = float(weight)
    if not weights:
        raise _no_weights(shown(asked))
    return weights


def read_words(text: str) -> dict[str, float]:
    """Return the weights of a query parameter: `name=weight,name=weight`, or names alone."""
    with refused_at("attributes"):
        weights = parse_weights(filter(None, text.split(",")), "attributes")
    if not weights:
        raise _no_weights(text)
    return weights


def read_filters(text: str) -> Any:
    """Return the filters of a field or a parameter, to be checked against a catalog; empty: none."""
    return read_json(text, "filters", EXAMPLE_FILTERS) if text.strip() else {}


def _no_weights(found: str) -> Refusal:
    return Refusal(
        422,
        "These are no attributes with weights.",
        where="attributes",
        expected=f"such as {EXAMPLE_WEIGHTS}",
        found=found[:80],
        do="GET /attributes lists them.",
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
