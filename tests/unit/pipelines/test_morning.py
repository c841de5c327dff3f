import pytest

from pipelines.morning import _newest
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Group

ENTRY = FileEntry("x", 1, "0" * 64)


@pytest.mark.parametrize(
    ("rows", "shown"),
    [([5], [5]), ([50], [50]), ([5, 5], [5, 5]), ([5, 5, 5], [5, 5]), ([1, 50, 3, 4], [50, 3, 4])],
)
def test_the_report_searches_among_the_newest_pictures(
    monkeypatch: pytest.MonkeyPatch, rows: list[int], shown: list[int]
) -> None:
    monkeypatch.setattr("pipelines.morning.SHOWN_ROWS", 10)
    groups = [
        Group(name=str(n), kind="flat", parts=(), num_rows=each, ids=ENTRY, files={})
        for n, each in enumerate(rows)
    ]
    assert [group.num_rows for group in _newest(groups)] == shown
