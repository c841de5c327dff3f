"""Where a catalog comes from: a folder, a table, a benchmark or a drawn one; and the bytes of each record."""

from pipelines.sources.allowed import NOT_ALLOWED, Allowed
from pipelines.sources.benchmark import Benchmark
from pipelines.sources.fetch import MAX_BYTES, fetch
from pipelines.sources.folder import FolderSource
from pipelines.sources.generated import GeneratedSource
from pipelines.sources.opening import open_source
from pipelines.sources.records import (
    LABELS,
    RECORD_FIELDS,
    RESERVED,
    ROLES,
    ListedTriplets,
    Source,
    shop_names,
)
from pipelines.sources.table import TableSource
from pipelines.sources.tokens import ABSENT

__all__ = [
    "ABSENT",
    "LABELS",
    "MAX_BYTES",
    "NOT_ALLOWED",
    "RECORD_FIELDS",
    "RESERVED",
    "ROLES",
    "Allowed",
    "Benchmark",
    "FolderSource",
    "GeneratedSource",
    "ListedTriplets",
    "Source",
    "TableSource",
    "fetch",
    "open_source",
    "shop_names",
]
