"""Where a catalog comes from: a folder, a table or a drawn one; and the bytes behind each record."""

from pipelines.sources.fetch import MAX_BYTES, fetch
from pipelines.sources.folder import FolderSource
from pipelines.sources.generated import GeneratedSource
from pipelines.sources.opening import open_source
from pipelines.sources.records import LABELS, RECORD_FIELDS, RESERVED, ROLES, Source, shop_names
from pipelines.sources.table import TableSource

__all__ = [
    "LABELS",
    "MAX_BYTES",
    "RECORD_FIELDS",
    "RESERVED",
    "ROLES",
    "FolderSource",
    "GeneratedSource",
    "Source",
    "TableSource",
    "fetch",
    "open_source",
    "shop_names",
]
