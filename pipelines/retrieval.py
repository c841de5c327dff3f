"""The FAISS files of one attribute, searched as one index: by all threads, and each centre looked at once.

Groups that were built with the same trained lists have the same centres, so which lists to probe is settled
once for a query, not for every file. FAISS answers a single query with one thread, so groups are shared among
threads. Of compressed lists, the best candidates of all groups are scored by their true vectors.

A file is mapped into memory where it lies on a local disk: opening it reads next to nothing, the processes of
a machine share its pages, and what no query touches is never read.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from pipelines.inverted_lists import REFINED, lists_of
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Group
from pipelines.verified import Verified

T = TypeVar("T")
R = TypeVar("R")
Rows: TypeAlias = NDArray[np.int64]
TIE = 1e-6  # what the order of a sum's terms moves a cosine by


class Lists(NamedTuple):
    """The inverted lists that a query probes."""

    numbers: NDArray[np.int64]
    """[1, P]"""
    scores: NDArray[np.float32]
    """[1, P], of their centres."""


def _num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SearchThreads:
    """Threads that share the groups of a search."""

    def __init__(self, number: int = 0) -> None:
        """Start threads; 0: as many as this process may use cores."""
        self.number = number or _num_cores()
        # FAISS takes no further threads within each of them.
        self._pool = ThreadPoolExecutor(self.number, "search", faiss.omp_set_num_threads, (1,))

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what a function makes of each item, in their order: a share of the items a thread."""
        shares = [items[first :: self.number] for first in range(min(self.number, len(items)))]
        made = list(self._pool.map(lambda share: [function(item) for item in share], shares))
        return [made[place % self.number][place // self.number] for place in range(len(items))]

    def close(self) -> None:
        """End them."""
        self._pool.shutdown()


@dataclass(frozen=True, slots=True)
class Live:
    """Which index rows of a snapshot may answer: a selector a group, made once for many queries."""

    counts: tuple[int, ...]
    """Live rows by group."""
    selectors: tuple[faiss.IDSelector | None, ...]
    """By group; None where all of its rows are live, and FAISS need not ask."""


def live_rows(is_live: NDArray[np.bool_], starts: NDArray[np.int64]) -> Live:
    """Return the selectors of live rows.

    Args:
        is_live: by index row.
        starts: [G + 1], first index row of each group and their total.
    """
    pieces = [is_live[first:last] for first, last in pairwise(starts)]
    counts = tuple(int(piece.sum()) for piece in pieces)
    return Live(counts, tuple(map(_selector, pieces)))


def _selector(is_live: NDArray[np.bool_]) -> faiss.IDSelector | None:
    # FAISS' stubs do not know what its Python wrapper adds: here, to keep the array.
    from_array: Any = faiss.IDSelectorBitmap
    return None if is_live.all() else from_array(np.packbits(is_live, bitorder="little"))


def open_index(verified: Verified, entry: FileEntry, *, mapped: bool = True) -> faiss.Index:
    """Open a FAISS file that was compared with its digest.

    Args:
        verified: of the lake.
        entry: of the file.
        mapped: map it where it lies on a local disk; a file of an S3 lake is read whole.
    """
    with verified.checked(entry) as path:
        flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY if mapped and verified.is_local else 0
        return faiss.read_index(str(path), flags)


class AttributeIndex:
    """All groups of an attribute, opened."""

    def __init__(
        self,
        verified: Verified,
        attribute: str,
        groups: Sequence[Group],
        threads: SearchThreads,
        *,
        mapped: bool = True,
    ) -> None:
        """Open the files, several at a time: where they must be compared first, that reads all of them."""
        self._threads = threads
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        self._templates = [group.template for group in groups]
        entries = [group.files[attribute] for group in groups]
        self._indexes: list[Any] = threads.map(
            lambda entry: open_index(verified, entry, mapped=mapped), entries
        )
        self._searched = [lists_of(index) for index in self._indexes]
        self._is_compressed = any(isinstance(index, faiss.IndexRefine) for index in self._indexes)

    def search(self, query: NDArray[np.float32], wanted: int, live: Live) -> tuple[Rows, NDArray[np.float32]]:
        """Return the nearest live rows of every group.

        Args:
            query: [D] unit vector.
            wanted: most rows of each group.
            live: which rows may answer.

        Returns:
            [N] index rows and [N] their scores, in no order; of compressed lists the nearest of all groups.
        """
        asked = np.ascontiguousarray(query[None], np.float32)
        if not self._is_compressed:
            return self._nearest(asked, wanted, live)
        candidates = REFINED * wanted
        rows = np.sort(nearest_of_all(*self._nearest(asked, candidates, live), candidates))
        return rows, self.vectors(rows) @ asked[0]

    def _nearest(
        self, asked: NDArray[np.float32], wanted: int, live: Live
    ) -> tuple[Rows, NDArray[np.float32]]:
        lists = self._lists(asked)

        def search_group(number: int) -> tuple[Rows, NDArray[np.float32]]:
            num_rows = min(wanted, live.counts[number])
            lists_here = lists.get(self._templates[number])
            found, scores = _nearest(
                self._searched[number], asked, num_rows, live.selectors[number], lists_here
            )
            return found + self._starts[number], scores

        found = self._threads.map(search_group, [n for n, count in enumerate(live.counts) if count])
        rows, scores = [rows for rows, _ in found], [scores for _, scores in found]
        return _joined(rows, np.int64), _joined(scores, np.float32)

    def vectors(self, rows: Rows) -> NDArray[np.float32]:
        """Return the vectors [N, D] of index rows, ascending."""
        bounds = np.searchsorted(rows, self._starts)
        blocks = [
            index.reconstruct_batch(rows[first:last] - start)
            for index, start, first, last in zip(
                self._indexes, self._starts[:-1], bounds[:-1], bounds[1:], strict=True
            )
            if last > first
        ]
        return _joined(blocks, np.float32)

    def _lists(self, asked: NDArray[np.float32]) -> dict[str, Lists]:
        """Return which lists to probe, by name of the trained lists."""
        found: dict[str, Lists] = {}
        for index, template in zip(self._searched, self._templates, strict=True):
            if isinstance(index, faiss.IndexIVF) and template not in found:
                scores, numbers = index.quantizer.search(asked, index.nprobe)
                found[template] = Lists(numbers, scores)
        return found


def nearest_of_all(rows: Rows, scores: NDArray[np.float32], wanted: int) -> Rows:
    """Return those of some rows that are among the `wanted` best, with all that tie with the last of them."""
    if len(rows) <= wanted:
        return rows
    best: Rows = rows[scores >= np.partition(scores, -wanted)[-wanted] - TIE]
    return best


def _nearest(
    index: Any,
    asked: NDArray[np.float32],
    num_rows: int,
    selector: faiss.IDSelector | None,
    lists: Lists | None,
) -> tuple[Rows, NDArray[np.float32]]:
    """Return at most `num_rows` rows of an index and their scores."""
    # Nor do they know the keyword arguments of parameters.
    if lists is None:
        exact = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        scores, rows = index.search(asked, num_rows, params=exact)
    else:
        # As `index.search_preassigned`, which takes no parameters in Python.
        rows, scores = np.empty((1, num_rows), np.int64), np.empty((1, num_rows), np.float32)
        probing = faiss.SearchParametersIVF(sel=selector, nprobe=lists.numbers.shape[1])  # type: ignore[call-arg]
        arrays = [faiss.swig_ptr(each) for each in (lists.numbers, lists.scores, scores, rows)]
        index.search_preassigned_c(1, faiss.swig_ptr(asked), num_rows, *arrays, False, probing)
    is_row = rows[0] >= 0
    return rows[0][is_row], scores[0][is_row]


def _joined(blocks: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    joined: NDArray[Any] = np.concatenate(blocks) if blocks else np.zeros(0, dtype)
    return joined
