"""Whether a store keeps the promise that publishing rests on: conditional writes."""

import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from agman.errors import InvalidInput
from pipelines.storage.objects import ObjectStore

FOLDER = "probes"
ANOTHER_VERSION = '"0123456789abcdef0123456789abcdef"'  # as an ETag is written


def check_conditional_writes(store: ObjectStore) -> None:
    """Try conditional writes on an object of our own, where the store is not known to have them.

    Raises:
        InvalidInput: if the store writes where it must refuse, or cannot write conditionally at all.
    """
    if store.has_conditions:
        return
    name = f"{FOLDER}/{uuid.uuid4().hex}"
    try:
        holds = _holds(store, name)
    except InvalidInput as error:
        if "NotImplemented" not in str(error):
            raise
        holds = False
    finally:
        store.delete(name)
    if not holds:
        raise InvalidInput(
            f"lake {store.url}: expected a store with conditional writes (If-None-Match, If-Match), found "
            "one without: two runs could overwrite each other; use another store, or add "
            "--unsafe-single-writer if only one run ever writes"
        )


def _holds(store: ObjectStore, name: str) -> bool:
    if not store.put_if_absent(name, b"first") or store.put_if_absent(name, b"second"):
        return False
    found = store.read(name)
    if found.body != b"first" or store.compare_and_swap(name, b"third", ANOTHER_VERSION):
        return False
    if not store.compare_and_swap(name, b"fourth", found.version) or _replaces_by_parts(store, name):
        return False
    return store.read(name).body == b"fourth"


def _replaces_by_parts(store: ObjectStore, name: str) -> bool:
    """Some stores look at the condition of a PUT and not at that of a multipart upload's completion."""
    with TemporaryDirectory(prefix="lake-") as folder:
        local = Path(folder) / "fifth"
        local.write_bytes(b"fifth")
        return store.upload_if_absent(local, name, in_parts=True)
