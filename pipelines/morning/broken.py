"""Pictures of quarantined records, as far as they can be drawn: a person sees at once what a feed sends.

The lake keeps no bytes of what it could not use. They are fetched once more from the source, few and not for
long, and shown only where they are the very bytes that were refused.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from PIL import Image

from agman.errors import AgmanError, BadSample
from agman.images import decode_square
from pipelines.sources.allowed import Allowed
from pipelines.sources.fetch import fetch

PIXELS = 72
MAX_BYTES = 16 * 2**20
MAX_PIXELS = 20_000_000
"""Of a picture that is worth a look; the driver decodes some at a time."""
THREADS = 8
WAIT_S = 20.0
"""A report does not wait longer for a source that is slow this morning."""
_JPEG_END = b"\xff\xd9"


def draw_broken(rows: Sequence[Mapping[str, Any]], allowed: Allowed | None) -> dict[str, Image.Image]:
    """Draw what can be seen of quarantined pictures.

    Args:
        rows: of the quarantine, with uri and sha256.
        allowed: where the source may lead; None: nothing is fetched.

    Returns:
        By sha256. A picture that was cut off is grey below.
    """
    if allowed is None:
        return {}
    uris = {row["sha256"]: row["uri"] for row in rows if row.get("sha256")}
    pool = ThreadPoolExecutor(THREADS, "quarantine")
    try:
        drawn = {sha256: pool.submit(_draw, uri, sha256, allowed) for sha256, uri in uris.items()}
        wait(drawn.values(), timeout=WAIT_S)
        return {sha256: image for sha256, image in _finished(drawn.items()) if image is not None}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _finished(
    drawn: Iterable[tuple[str, Future[Image.Image | None]]],
) -> Iterable[tuple[str, Image.Image | None]]:
    return ((sha256, future.result()) for sha256, future in drawn if future.done())


def _draw(uri: str, sha256: str, allowed: Allowed) -> Image.Image | None:
    try:
        encoded = fetch(uri, allowed, max_bytes=MAX_BYTES)
        if hashlib.sha256(encoded).hexdigest() != sha256:
            return None
        return _as_far_as_it_goes(encoded)
    except AgmanError:  # what is wrong with it is said beside; it may have become worse since
        return None


def _as_far_as_it_goes(encoded: bytes) -> Image.Image:
    """Decode a picture, a JPEG that was cut off up to the cut."""
    try:
        return _square(encoded)
    except BadSample:
        return _square(encoded + _JPEG_END)


def _square(encoded: bytes) -> Image.Image:
    """Decode the centre square by the rule of the nights: whatever a damaged file does is a `BadSample`."""
    return Image.fromarray(decode_square(encoded, PIXELS, max_pixels=MAX_PIXELS))
