"""What a generated product picture shows: sampled from a key and a seed, before anything is drawn.

The labels follow the eight FashionAI attributes. Value 0 of each is `invisible`: it belongs to the taxonomy,
and no drawn picture carries it, because a picture lists only the attributes its garments have.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "skirt_length": ("invisible", "short", "knee", "midi", "ankle", "floor"),
    "sleeve_length": (
        "invisible",
        "sleeveless",
        "cup",
        "short",
        "elbow",
        "three_quarter",
        "wrist",
        "long",
        "extra_long",
    ),
    "coat_length": ("invisible", "high_waist", "regular", "long", "micro", "knee", "midi", "ankle_floor"),
    "pant_length": ("invisible", "short", "mid", "three_quarter", "cropped", "full"),
    "collar_design": ("invisible", "shirt_collar", "peter_pan", "puritan", "rib_collar"),
    "lapel_design": ("invisible", "notched", "collarless", "shawl", "plus_size_shawl"),
    "neckline_design": (
        "invisible",
        "strapless",
        "deep_v",
        "straight",
        "v",
        "square",
        "off_shoulder",
        "round",
        "sweetheart",
        "one_shoulder",
    ),
    "neck_design": ("invisible", "turtle", "ruffle_semi_high", "low_turtle", "draped"),
}
"""Attribute -> ordered value names."""

CATEGORIES = ("top", "dress", "coat", "skirt", "trousers")
CATEGORY_SHARES = (0.34, 0.20, 0.24, 0.09, 0.13)
"""Chosen so that every attribute is on at least a sixth of the pictures."""

NECK_FAMILIES = ("neckline_design", "collar_design", "neck_design")
NECK_SHARES = (0.40, 0.30, 0.30)
"""A garment's upper edge is one of these; neckline_design has twice the values, so it gets more pictures."""

BRANDS = ("Alder & Co", "Bruma", "Celadon", "Dovetail", "Estuary", "Fenwick", "Golden Hour", "Halcyon")
SEASONS = ("spring", "summer", "autumn", "winter")
BASE_PRICES = {"top": 35.0, "dress": 80.0, "coat": 160.0, "skirt": 45.0, "trousers": 60.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Garment:
    """One product picture before it is drawn."""

    category: str
    """One of CATEGORIES: the product on sale."""
    labels: dict[str, str]
    """Attribute -> value name, only for attributes the picture shows."""
    columns: dict[str, str | float]
    """The shop's own columns: sku, brand, category, price, season."""
    drawn: dict[str, str]
    """Attribute -> value name of everything drawn: the labels and their company, such as plain trousers."""
    framing: str
    """`full`, `upper` (waist up) or `lower` (waist down)."""
    product_seed: int
    """Decides cloth and cut; the same for every revision."""
    look_seed: int
    """Decides person, pose, place, light and camera; new with every revision."""


def stable_seed(*parts: object) -> int:
    """A 64-bit seed that depends on the parts alone, on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def sample_garment(key: str, seed: int, revision: int = 0) -> Garment:
    """Sample what the picture of a product shows.

    Args:
        key: the image's stable id.
        seed: the generated catalog's seed.
        revision: 0 for the first picture; another number is another picture of the same product.

    Returns:
        The garment. Category, labels, columns and cloth do not depend on `revision`.
    """
    product_seed = stable_seed("product", key, seed)
    rng = np.random.default_rng(product_seed)
    category = _pick(rng, CATEGORIES, CATEGORY_SHARES)
    drawn, company, framing = _SAMPLERS[category](rng)
    labels = {attribute: drawn[attribute] for attribute in ATTRIBUTE_VALUES if attribute in drawn}
    return Garment(
        category=category,
        labels=labels,
        columns=_shop_columns(rng, category, product_seed),
        drawn=drawn | company,
        framing=framing,
        product_seed=product_seed,
        look_seed=stable_seed("look", key, seed, revision),
    )


def _shop_columns(rng: np.random.Generator, category: str, product_seed: int) -> dict[str, str | float]:
    price = round(BASE_PRICES[category] * float(rng.uniform(0.6, 1.9)))
    return {
        "sku": f"{category[:2].upper()}-{product_seed % 10**8:08d}",
        "brand": _pick(rng, BRANDS),
        "category": category,
        "price": price - 0.05,
        "season": _pick(rng, SEASONS),
    }


def _pick(rng: np.random.Generator, options: tuple[str, ...], shares: tuple[float, ...] | None = None) -> str:
    return options[int(rng.choice(len(options), p=shares))]


def _value(rng: np.random.Generator, attribute: str) -> str:
    return _pick(rng, ATTRIBUTE_VALUES[attribute][1:])


def _upper_body(rng: np.random.Generator) -> dict[str, str]:
    """A sleeve and one of neckline, collar, neck; a neckline without shoulders limits the sleeves."""
    family = _pick(rng, NECK_FAMILIES, NECK_SHARES)
    edge = _value(rng, family)
    sleeves = ATTRIBUTE_VALUES["sleeve_length"][1:]
    if edge == "strapless":
        sleeves = ("sleeveless",)
    elif edge == "off_shoulder" or rng.random() < 0.06:  # evens out what strapless adds to sleeveless
        sleeves = sleeves[1:]
    return {family: edge, "sleeve_length": _pick(rng, sleeves)}


def _lower_body(rng: np.random.Generator, skirt_share: float) -> dict[str, str]:
    attribute = "skirt_length" if rng.random() < skirt_share else "pant_length"
    return {attribute: _value(rng, attribute)}


_Sampled = tuple[dict[str, str], dict[str, str], str]


def _sample_top(rng: np.random.Generator) -> _Sampled:
    if rng.random() < 0.6:
        return _upper_body(rng), {"pant_length": "full"}, "upper"
    return _upper_body(rng) | _lower_body(rng, 0.35), {}, "full"


def _sample_dress(rng: np.random.Generator) -> _Sampled:
    return _upper_body(rng) | {"skirt_length": _value(rng, "skirt_length")}, {}, "full"


def _sample_coat(rng: np.random.Generator) -> _Sampled:
    attributes = ("sleeve_length", "lapel_design", "coat_length")
    company = {"pant_length": "full"} if rng.random() < 0.5 else {"skirt_length": "short"}
    return {attribute: _value(rng, attribute) for attribute in attributes}, company, "full"


def _sample_bottom(rng: np.random.Generator, attribute: str) -> _Sampled:
    bottom = {attribute: _value(rng, attribute)}
    if rng.random() < 0.35:
        return bottom, {"neckline_design": "round", "sleeve_length": _value(rng, "sleeve_length")}, "lower"
    return bottom | _upper_body(rng), {}, "full"


_SAMPLERS: dict[str, Callable[[np.random.Generator], _Sampled]] = {
    "top": _sample_top,
    "dress": _sample_dress,
    "coat": _sample_coat,
    "skirt": lambda rng: _sample_bottom(rng, "skirt_length"),
    "trousers": lambda rng: _sample_bottom(rng, "pant_length"),
}
