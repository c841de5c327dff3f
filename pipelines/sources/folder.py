"""A folder of pictures as a source: every file is a record, its relative path the key."""

import logging
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote_from_bytes

import pyarrow as pa

from agman.errors import InvalidInput
from pipelines.sources.allowed import Allowed, folder_place
from pipelines.sources.records import BATCH_ROWS, record_batch
from pipelines.sources.tokens import file_token

logger = logging.getLogger(__name__)

FOREIGN_SUFFIXES = frozenset(
    ".txt .csv .tsv .json .jsonl .ndjson .parquet .md .yaml .yml .xml .html .pdf .zip .tar .gz".split()
)
FOREIGN_NAMES = frozenset({"thumbs.db", "desktop.ini"})
_UNDECODABLE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class _Picture:
    """One file: everything a record needs, as text that Parquet can hold."""

    key: str
    uri: str
    token: str
    folder: str


class FolderSource:
    """All files under a folder, in a fixed order.

    Attributes:
        name: "folder <path>".
        allowed: the folder and what is below it.
        skipped: files left out by the last complete `batches`: hidden, obviously not pictures, devices, and
            links that are broken, lead to a folder or leave the root.
    """

    def __init__(self, root: str | Path) -> None:
        """Remember an existing folder.

        Args:
            root: its path as the person wrote it.
        """
        self.name = f"folder {root}"
        self.skipped = 0
        self._root = os.path.realpath(root)
        self.allowed = Allowed(folder_place(self._root))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Walk the folder.

        Yields:
            RECORD_FIELDS and a `folder` column: the sub-folder's relative path, "" at the root.

        Raises:
            InvalidInput: if a folder cannot be read, or there is no picture at all.
        """
        self.skipped = 0
        pictures = self._walk(self._root)
        num_pictures = 0
        while chunk := list(islice(pictures, BATCH_ROWS)):
            num_pictures += len(chunk)
            yield _batch(chunk)
        if num_pictures == 0:
            raise InvalidInput(
                f"source {self.name}: expected at least one picture, found none and left out {self.skipped} "
                "hidden or other files; name the folder that holds the pictures"
            )
        if self.skipped:
            logger.info("%s: left out %d files that are hidden or no pictures", self.name, self.skipped)

    def _walk(self, folder: str) -> Iterator[_Picture]:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:  # passing over it would look as if its products had been deleted
            shown = os.fsencode(folder).decode("utf-8", "backslashreplace")
            raise InvalidInput(
                f"source {self.name}: cannot list {shown}: {error.strerror}; allow reading it or move it out"
            ) from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    yield from self._walk(entry.path)
                continue
            found = self._picture_stat(entry)
            if found is None:
                self.skipped += 1
            else:
                yield self._picture(entry.path, found)

    def _picture_stat(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        """Return the facts of a file that may be a picture, None for one to leave out."""
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or suffix in FOREIGN_SUFFIXES or entry.name.lower() in FOREIGN_NAMES:
            return None
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if os.path.commonpath([self._root, target]) != self._root:
                return None
        try:
            found = entry.stat()
        except OSError:  # a broken link, or gone since it was listed
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def _picture(self, path: str, found: os.stat_result) -> _Picture:
        relative = os.path.relpath(path, self._root)
        return _Picture(_text(relative), _uri(path), file_token(found), _text(os.path.dirname(relative)))


def _text(path: str) -> str:
    """Return a path as valid text in one spelling: NFC, as macOS stores accents apart and Linux together.

    Bytes that are not UTF-8 become %XX, and then a "%" of the name becomes %25 so that two names stay two.
    """
    if _UNDECODABLE.search(path):
        path = _UNDECODABLE.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", path.replace("%", "%25"))
    return unicodedata.normalize("NFC", path)


def _uri(path: str) -> str:
    """Return a plain path, or a `file:` URI where Parquet's text could not hold the path's bytes."""
    return f"file://{quote_from_bytes(os.fsencode(path))}" if _UNDECODABLE.search(path) else path


def _batch(pictures: list[_Picture]) -> pa.RecordBatch:
    return record_batch(
        keys=pa.array([picture.key for picture in pictures], pa.string()),
        uris=pa.array([picture.uri for picture in pictures], pa.string()),
        tokens=pa.array([picture.token for picture in pictures], pa.string()),
        shop={"folder": pa.array([picture.folder for picture in pictures], pa.string())},
    )
