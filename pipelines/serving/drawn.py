"""Pictures that a service draws, and a bounded memory of them."""

import io
from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.pictures import attention_overlay, square_thumbnail, thumbnail

MIN_HEIGHT, MAX_HEIGHT = 16, 1024
ATTENTION_PIXELS = 384
QUALITY = 85


class Drawn(NamedTuple):
    """A JPEG."""

    name: str
    """Tells its content: the same name, the same bytes."""
    encoded: bytes


class Kept:
    """Bytes by name, the ones last asked for, up to a sum of their lengths."""

    def __init__(self, max_bytes: int) -> None:
        """Begin empty."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, name: str) -> bytes | None:
        """Return what was put under a name, if it is still there."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def put(self, name: str, content: bytes) -> None:
        """Keep something, and let go of what was not asked for longest."""
        with self._lock:
            self._num_bytes += len(content) - len(self._kept.pop(name, b""))
            self._kept[name] = content
            while self._num_bytes > self._max_bytes:
                _, gone = self._kept.popitem(last=False)
                self._num_bytes -= len(gone)


def draw_thumbnail(encoded: bytes, height: int) -> bytes:
    """Return a picture at a height, as JPEG."""
    return _jpeg(thumbnail(encoded, height))


def draw_attention(encoded: bytes, attention: np.ndarray) -> bytes:
    """Return what the network saw of a picture under a heat map [h, w] of where it looked, as JPEG."""
    return _jpeg(attention_overlay(square_thumbnail(encoded, ATTENTION_PIXELS), attention))


def _jpeg(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.convert("RGB").save(written, "JPEG", quality=QUALITY)
    return written.getvalue()
