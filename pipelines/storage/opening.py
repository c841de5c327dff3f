"""From a lake's address to its store."""

from pathlib import Path

from agman.errors import InvalidInput
from pipelines.storage.local import LocalStore
from pipelines.storage.objects import ObjectStore


def open_store(url: str, *, unsafe_single_writer: bool = False) -> ObjectStore:
    """Open the store at a local path or an `s3://bucket/prefix` URL.

    Args:
        url: where.
        unsafe_single_writer: of S3: write without conditions, looking before each write instead.

    Raises:
        InvalidInput: if the URL has another scheme.
    """
    if url.startswith("s3://"):
        from pipelines.storage.s3 import (
            S3Store,  # s3fs takes half a second to import: only who needs it waits
        )

        return S3Store(url, is_conditional=not unsafe_single_writer)
    if "://" in url:
        raise InvalidInput(f"lake {url}: expected a local path or s3://bucket/prefix")
    return LocalStore(Path(url))
