"""What tests do to a lake behind the back of its code, on whatever store it is."""

from pipelines.lake import Lake


def overwrite(lake: Lake, name: str, body: bytes) -> None:
    """Put other bytes in an object's place, which nothing of the code would do."""
    lake.store.delete(name)
    assert lake.store.put_if_absent(name, body)


def flip(lake: Lake, name: str) -> None:
    """Flip one bit in the middle of an object."""
    body = bytearray(lake.store.read(name).body)
    body[len(body) // 2] ^= 1
    overwrite(lake, name, bytes(body))


def copy_lake(source: Lake, target: Lake) -> None:
    """Copy every object of a lake into an empty one."""
    for name in source.store.list_names(""):
        assert target.store.put_if_absent(name, source.store.read(name).body)
