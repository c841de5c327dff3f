"""From a lake's address to its store."""

from pathlib import Path

from agman.errors import InvalidInput
from pipelines.storage.local import LocalStore
from pipelines.storage.objects import ObjectStore


def open_store(url: str) -> ObjectStore:
    """Open the store at a local path or an `s3://bucket/prefix` URL.

    Raises:
        InvalidInput: if the URL has another scheme.
    """
    if url.startswith("s3://"):
        from pipelines.storage.s3 import (
            S3Store,  # s3fs takes half a second to import: only who needs it waits
        )

        return S3Store(url)
    if "://" in url:
        raise InvalidInput(f"lake {url}: expected a local path or s3://bucket/prefix")
    return LocalStore(Path(url))
