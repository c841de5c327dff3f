import json
from typing import Any

import pytest

from pipelines.lake import Lake, receipt, to_json
from pipelines.scheduling import Receipt, Unit, valid_receipt
from pipelines.storage.objects import FileEntry

UNIT = Unit(stage="shards/shop", name="0123", payload=None, num_images=3)
NAME = receipt(UNIT.stage, UNIT.name)
FILES = (
    FileEntry("shards/shop/0123.tar", 3, "a" * 64, 3),
    FileEntry("shards/shop/0123.parquet", 2, "b" * 64),
)
RECEIPT = Receipt(
    unit="0123", files=FILES, counts={"ok": 3}, seconds={"read": 0.5}, detail={"pictures": ["é"]}
)


@pytest.fixture
def done(lake: Lake) -> Lake:
    for entry in FILES:
        lake.store.put_if_absent(entry.name, b"x" * entry.num_bytes)
    lake.store.put_if_absent(NAME, to_json(RECEIPT.to_json()))
    return lake


def test_a_receipt_comes_back_as_it_was(done: Lake) -> None:
    assert valid_receipt(done, UNIT) == RECEIPT


def test_work_without_receipt_is_not_done(lake: Lake) -> None:
    assert valid_receipt(lake, UNIT) is None


@pytest.mark.parametrize("entry", FILES, ids=["tar", "index"])
def test_a_missing_file_voids_the_receipt_and_its_other_files(done: Lake, entry: FileEntry) -> None:
    done.store.delete(entry.name)
    assert valid_receipt(done, UNIT) is None
    assert list(done.store.list_names("")) == []


@pytest.mark.parametrize("body", [b"", b"xx", b"xxxx"])
def test_a_file_of_another_size_voids_the_receipt(done: Lake, body: bytes) -> None:
    done.store.delete(FILES[0].name)
    done.store.put_if_absent(FILES[0].name, body)
    assert valid_receipt(done, UNIT) is None
    assert done.store.size(NAME) is None
    assert done.store.size(FILES[0].name) is None  # else it would stand in the way of the good one


def damaged() -> list[bytes]:
    good: dict[str, Any] = RECEIPT.to_json()
    return [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        json.dumps({**good, "files": None}).encode(),
        json.dumps({**good, "files": [{"name": "x"}]}).encode(),
        json.dumps({**good, "unknown": 1}).encode(),
        to_json(good)[:-20],
    ]


@pytest.mark.parametrize("body", damaged())
def test_a_damaged_receipt_proves_nothing_and_makes_room(lake: Lake, body: bytes) -> None:
    lake.store.put_if_absent(NAME, body)
    assert valid_receipt(lake, UNIT) is None
    assert lake.store.put_if_absent(NAME, to_json(RECEIPT.to_json()))


def test_a_unit_without_files_is_done_by_its_receipt(lake: Lake) -> None:
    empty = Receipt(unit="0123", files=())
    lake.store.put_if_absent(NAME, to_json(empty.to_json()))
    assert valid_receipt(lake, UNIT) == empty


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "shards/../CURRENT.json",
        "pipe:cat /etc/passwd",
        "CURRENT.json",
        "a" * 300,
    ],
)
def test_a_receipt_that_lists_what_is_not_its_own_proves_nothing_and_deletes_nothing(
    lake: Lake, name: str
) -> None:
    lake.store.put_if_absent("CURRENT.json", b"{}")
    unit = Unit(stage="shards/shop", name="0123")
    entry = {"name": name, "num_bytes": 1, "sha256": "", "num_rows": None}
    body = to_json({"unit": "0123", "files": [entry]})
    lake.store.put_if_absent(receipt(unit.stage, unit.name), body)
    assert valid_receipt(lake, unit) is None
    assert lake.store.size("CURRENT.json") == 2
    assert lake.store.size(receipt(unit.stage, unit.name)) is None
