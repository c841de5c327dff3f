"""One snapshot, loaded for a service: whatever an answer needs is open before the first request meets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.filters import plain
from pipelines.lake import Lake
from pipelines.query_model import QueryModel
from pipelines.redaction import without_secrets
from pipelines.search import Searcher
from pipelines.storage.snapshots import Pointer, read_manifest


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A snapshot that can answer."""

    pointer: Pointer
    searcher: Searcher
    description: dict[str, Any]
    """The body of `GET /attributes`."""

    @classmethod
    def open(
        cls, lake: Lake, pointer: Pointer, threads: int, device: str, before: "Loaded | None" = None
    ) -> "Loaded":
        """Load the snapshot that a pointer names.

        Args:
            lake: where.
            pointer: what is published.
            threads: that a search may take.
            device: of the model.
            before: the snapshot that answers now; the model is shared where both have the same.
        """
        manifest = read_manifest(lake, pointer.snapshot, pointer.manifest_sha256)
        if before is not None and before.searcher.manifest.model == manifest.model:
            model = before.model
        else:
            model = QueryModel.open(lake, manifest.model, device)
        searcher = Searcher(lake, manifest, num_threads=threads, model=model)
        try:
            searcher.warm()
            return cls(pointer=pointer, searcher=searcher, description=_describe(searcher))
        except BaseException:
            searcher.close()
            raise

    @property
    def id(self) -> str:
        """Of the snapshot."""
        return self.searcher.manifest.id

    @property
    def model(self) -> QueryModel:
        """Of the snapshot."""
        return self.searcher.model

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """That can be asked about."""
        return self.searcher.attributes

    def columns_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the shop's own columns of a catalog row, as an answer shows them."""
        return {name: _cell(row.get(name)) for name in self.searcher.products.own_columns}

    def close(self) -> None:
        """Let go of its files."""
        self.searcher.close()


def _describe(searcher: Searcher) -> dict[str, Any]:
    values = searcher.model.attribute_values
    attributes = [{"name": name, "values": list(values.get(name, ()))} for name in searcher.attributes]
    columns: list[dict[str, Any]] = []
    for column in searcher.products.describe_columns():
        described: dict[str, Any] = {"name": column.name, "type": column.type}
        if column.type in ("number", "date"):
            described |= {"min": column.min, "max": column.max}
        else:
            described["values"] = [_cell(value) for value in column.values]
            described["num_values"] = column.num_values
        columns.append(described)
    return {"attributes": attributes, "columns": columns}


def _cell(value: Any) -> Any:
    """Return a cell of the catalog for an answer; a shop's addresses may hold what is secret."""
    found = plain(value)
    return without_secrets(found) if isinstance(found, str) else found
