"""Draws product pictures: a garment sampled from a key, painted with numpy and Pillow."""

from pipelines.sources.drawing.render import draw, draw_jpeg
from pipelines.sources.drawing.spec import ATTRIBUTE_VALUES, Garment, sample_garment

__all__ = ["ATTRIBUTE_VALUES", "Garment", "draw", "draw_jpeg", "sample_garment"]
