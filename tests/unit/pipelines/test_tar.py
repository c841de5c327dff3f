import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shards.tar import SMALL_BYTES, TarWriter, header

sizes = st.one_of(st.integers(0, 2000), st.sampled_from([511, 512, SMALL_BYTES - 1, SMALL_BYTES, 70_001]))


def as_tarfile(members: list[tuple[str, bytes]]) -> bytes:
    """Return what the standard library writes."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, body in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(body), 0o444
            tar.addfile(member, io.BytesIO(body))
    return written.getvalue()


@given(st.lists(sizes, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_tar_is_what_the_standard_library_writes(tmp_path_factory: object, lengths: list[int]) -> None:
    path = tmp_path_factory.mktemp("tar") / "it.tar"  # type: ignore[attr-defined]
    members = [(f"{index:064x}.jpg", os.urandom(length)) for index, length in enumerate(lengths)]
    with TarWriter(path) as tar:
        offsets = [tar.add(name, body) for name, body in members]
    written = path.read_bytes()
    assert written == as_tarfile(members)
    assert (tar.sha256, tar.num_bytes) == (hashlib.sha256(written).hexdigest(), len(written))
    for (_, body), offset in zip(members, offsets, strict=True):
        assert written[offset : offset + len(body)] == body


@pytest.mark.parametrize(("name", "size"), [("a", 0), ("é", 1), ("x" * 100, 8**11 - 1)])
def test_a_header_is_the_standard_librarys(name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o444
    assert header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 0), ("a", 8**11)])
def test_what_the_format_cannot_tell_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="expected at most 100 letters and 8 GiB"):
        header(name, size)


def test_a_tar_that_was_broken_off_has_no_digest_and_replaces_nothing(tmp_path: Path) -> None:
    tar = TarWriter(tmp_path / "it.tar")
    tar.add("a", b"body")
    tar.__exit__(KeyError, KeyError(), None)
    assert tar.sha256 == ""
    with pytest.raises(FileExistsError):
        TarWriter(tmp_path / "it.tar")


def test_a_write_that_the_disk_takes_in_pieces_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: os.write(descriptor, pieces[0][:7]))
    members = [("a", bytes(20_000)), ("b", b"short"), ("c", os.urandom(9_000))]
    with TarWriter(tmp_path / "it.tar") as tar:
        for name, body in members:
            tar.add(name, body)
    assert (tmp_path / "it.tar").read_bytes() == as_tarfile(members)
