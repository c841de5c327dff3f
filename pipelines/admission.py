"""What may answer a search: what the catalog still holds, has what is asked for, and passes the filters.

Where the model says which attributes a picture has (`parts.Shown`), a search under an attribute that the
query has leaves out pictures that it says not to have it: like this neckline, but no trousers. The catalog's
own labels know better: a product that they give the attribute is never left out.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from agman.prototypes import INVISIBLE
from pipelines.filters import Filters, select_rows
from pipelines.index import read_ids
from pipelines.lake import Lake
from pipelines.places import Places
from pipelines.retrieval import Live, live_rows
from pipelines.storage.snapshots import Group, Manifest

CACHED = 32
"""Answers that are kept: a quarter of a byte each for every product of the catalog."""


class Admitted(NamedTuple):
    """What may answer a search."""

    live: Live
    num_hidden: int
    """Products that pass the filters and are left out for lack of an attribute."""
    passing: NDArray[np.uint8] | None
    """A bit for each product, set where it passes the filters; None where there are none."""

    def passes(self, product: int) -> bool:
        """Tell whether a product, a row of the catalog, passes the filters."""
        return self.passing is None or bool(self.passing[product >> 3] >> (product & 7) & 1)


class Admission:
    """Settles who may answer, once for all searches that ask the same."""

    def __init__(self, lake: Lake, manifest: Manifest, places: Places, num_products: int) -> None:
        """Begin with nothing settled.

        Args:
            lake: where.
            manifest: of the snapshot.
            places: of its products.
            num_products: rows of its catalog.
        """
        self._lake = lake
        self._manifest = manifest
        self._places = places
        self._num_products = num_products
        self._settled: OrderedDict[tuple[frozenset[str], Filters], Admitted] = OrderedDict()

    def admit(
        self,
        connect: Callable[[], duckdb.DuckDBPyConnection],
        having: frozenset[str],
        filters: Filters = (),
    ) -> Admitted:
        """Return who may answer.

        Args:
            connect: gives a connection with the catalog as the view `numbered`; not for what is settled.
            having: attributes; pictures that the model says to lack one are left out, unless labelled
                with it.
            filters: on the catalog's columns.
        """
        question = (having, filters)
        found = self._settled.get(question) or self._settle(connect(), having, filters)
        self._settled[question] = found
        while len(self._settled) > CACHED:
            self._settled.popitem(last=False)
        return found

    def _settle(self, db: duckdb.DuckDBPyConnection, having: frozenset[str], filters: Filters) -> Admitted:
        places, passing = self._places, None
        wanted = places.alive
        if filters:
            chosen = select_rows(db, "numbered", self._num_products, filters)
            wanted = places.positions_of(chosen)
            passing = np.packbits(chosen, bitorder="little")
        hidden = np.zeros(places.num_rows, bool)
        for attribute in having:
            hidden |= self._lacking(db, attribute)
        num_hidden = places.count_products(hidden, chosen if filters else None)
        return Admitted(live_rows(wanted & ~hidden, places.starts), num_hidden, passing)

    def _lacking(self, db: duckdb.DuckDBPyConnection, attribute: str) -> NDArray[np.bool_]:
        """Return, by index row, what the model says to lack an attribute, and no label gives it."""
        said = [_says_lacking(self._lake, group, attribute) for group in self._manifest.groups]
        lacking = np.concatenate([np.zeros(0, bool), *said])
        if not lacking.any():
            return lacking
        labelled = db.execute(
            """select file_row_number from numbered
            where coalesce(len(labels[$name]) > 0 and labels[$name] <> [$absent], false)""",
            {"name": attribute, "absent": INVISIBLE},
        ).fetchnumpy()
        is_labelled = np.zeros(self._num_products, bool)
        is_labelled[np.asarray(labelled["file_row_number"], np.int64)] = True
        return lacking & ~self._places.positions_of(is_labelled)


def _says_lacking(lake: Lake, group: Group, attribute: str) -> NDArray[np.bool_]:
    """Return, by row of a group, whether the model says that it lacks an attribute."""
    applies = read_ids(lake, group, [f"shows.{attribute}.applies"])
    if "shows" not in applies.column_names:  # written before there were values
        return np.zeros(group.num_rows, bool)
    said = pc.struct_field(applies["shows"], [attribute, "applies"])
    return np.asarray(pc.fill_null(pc.invert(said), False))
