"""A table as a source: a row is a record; the shop's columns travel with it."""

import json
import logging
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.compute as pc

from agman.errors import InvalidInput
from agman.taxonomy import FASHIONAI
from pipelines.redaction import shown_uri
from pipelines.sources.allowed import SCHEME, Place, allow, folder_place, local_path, place_of, scheme_of
from pipelines.sources.readers import read_table
from pipelines.sources.records import ROLES, label_maps, record_batch, shop_names, single_labels
from pipelines.sources.tokens import TokenLookup, token_lookup

logger = logging.getLogger(__name__)

TOKEN_COLUMNS = ("token", "etag")
_TEXT_COLUMNS = ("key", "uri", "role", *TOKEN_COLUMNS, *FASHIONAI.names)


class TableSource:
    """A Parquet, CSV or JSON lines table with columns `key` and `uri`.

    Attributes:
        name: "table <location>".
        allowed: where its pictures may be.
        unreadable_labels: rows of the last `batches` whose `labels` were no JSON object: taken as unlabelled.
        unknown_roles: rows of the last `batches` whose `role` is none of ROLES: taken as without a role.
    """

    def __init__(self, location: str, allow_uris: Sequence[str] = ()) -> None:
        """Remember where the table is.

        Args:
            location: a local path or fsspec URL.
            allow_uris: where its pictures may be beside its own folder; empty: at public web addresses.

        Raises:
            InvalidInput: if one of them is no beginning of a URI.
        """
        self.name = f"table {shown_uri(location)}"
        self.unreadable_labels = 0
        self.unknown_roles = 0
        self._location = location if scheme_of(location) else os.path.abspath(location)
        self.allowed = allow(_own_places(self._location), allow_uris)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream the rows in the table's order; one without key or uri is passed on with "" there.

        Yields:
            RECORD_FIELDS, then the shop's columns; those named like a FashionAI attribute are labels as well.

        Raises:
            InvalidInput: if there is no such table, or it lacks `key` or `uri`.
            StorageUnavailable: if its storage fails.
        """
        self.unreadable_labels = self.unknown_roles = 0
        num_rows = 0
        with token_lookup(self.allowed) as look_up:
            for rows in read_table(self._location, _text_types):
                self._require(rows.schema.names)
                if rows.num_rows == 0:
                    continue
                num_rows += rows.num_rows
                yield self._records(rows, look_up)
        if num_rows == 0:
            raise InvalidInput(f"source {self.name}: expected at least one row, found none")
        for count, what in (
            (
                self.unreadable_labels,
                'rows have labels that are no JSON object such as {"neck_design": "turtle"}',
            ),
            (self.unknown_roles, f"rows have a role that is none of {', '.join(ROLES)}"),
        ):
            if count:
                logger.warning("%s: %d %s; taken as having none", self.name, count, what)

    def _require(self, names: Sequence[str]) -> None:
        missing = [name for name in ("key", "uri") if name not in names]
        if missing:
            raise InvalidInput(
                f"source {self.name}: expected columns key and uri, found {', '.join(names)}; "
                f"rename or add {' and '.join(missing)}"
            )

    def _records(self, rows: pa.RecordBatch, look_up: TokenLookup) -> pa.RecordBatch:
        columns = {name: _plain(rows.column(name)) for name in rows.schema.names}
        keys = _text(columns.pop("key"), self.name, "key").fill_null("")
        uris = self._resolved(_text(columns.pop("uri"), self.name, "uri").fill_null(""))
        tokens = self._tokens(columns, uris, look_up)
        roles = self._roles(columns)
        labels = self._labels(columns, rows.num_rows)
        names = shop_names(list(columns))
        return record_batch(
            keys=keys,
            uris=uris,
            tokens=tokens,
            roles=roles,
            labels=labels,
            shop={names[name]: column for name, column in columns.items()},
        )

    def _resolved(self, uris: pa.Array) -> pa.Array:
        """Resolve the relative ones; most catalogs have none."""
        whole = pc.match_substring_regex(uris, f"^$|^/|{SCHEME.pattern}")
        if pc.all(whole).as_py():
            return uris
        return pa.array([self._resolve(uri) for uri in uris.to_pylist()], pa.string())

    def _resolve(self, uri: str) -> str:
        """Read a relative uri from the table's folder, so that table and pictures can move together."""
        if not uri or scheme_of(uri) or uri.startswith("/"):
            return uri
        if not scheme_of(self._location):
            return os.path.normpath(os.path.join(os.path.dirname(self._location), uri))
        base = urlsplit(self._location)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(base.path) or "/", uri))
        return urlunsplit((base.scheme, base.netloc, "", "", "")) + path

    def _tokens(self, columns: dict[str, pa.Array], uris: pa.Array, look_up: TokenLookup) -> pa.Array:
        """Take the shop's own tokens; look up those it does not give."""
        given = next((name for name in TOKEN_COLUMNS if name in columns), None)
        if given is None:
            return pa.array(look_up(uris.to_pylist()), pa.string())
        column = _text(columns[given], self.name, given)
        if given == "token":  # ours by name; an etag stays the shop's column too
            del columns[given]
        if column.null_count == 0:
            return column
        tokens = column.to_pylist()
        unknown = [index for index, token in enumerate(tokens) if token is None]
        asked = uris.take(pa.array(unknown)).to_pylist()
        for index, token in zip(unknown, look_up(asked), strict=True):
            tokens[index] = token
        return pa.array(tokens, pa.string())

    def _roles(self, columns: dict[str, pa.Array]) -> pa.Array | None:
        if "role" not in columns:
            return None
        roles = _text(columns.pop("role"), self.name, "role")
        roles = pc.if_else(pc.equal(roles, ""), None, roles)
        known = pc.is_in(roles, value_set=pa.array(ROLES))
        self.unknown_roles += pc.sum(pc.and_(pc.invert(known), roles.is_valid())).as_py() or 0
        return pc.if_else(known, roles, pa.scalar(None, pa.string()))

    def _labels(self, columns: dict[str, pa.Array], num_rows: int) -> pa.MapArray:
        """Join the `labels` column with the columns named like attributes, which win."""
        attributes = [name for name in FASHIONAI.names if name in columns and _is_text(columns[name].type)]
        given = columns.get("labels")
        if given is None:
            return single_labels({name: columns[name] for name in attributes}, num_rows)
        labels: list[dict[str, list[str]]] = [{} for _ in range(num_rows)]
        if _is_text(given.type) or pa.types.is_map(given.type) or pa.types.is_struct(given.type):
            labels = [self._read_labels(value) for value in given.to_pylist()]
            if not _is_text(given.type):  # text is carried too: it may be more than the JSON we could read
                del columns["labels"]
        for attribute in attributes:
            for row_index, value in enumerate(columns[attribute].to_pylist()):
                if value:
                    labels[row_index][attribute] = [value]
        return label_maps(labels)

    def _read_labels(self, value: object) -> dict[str, list[str]]:
        """Read one row's labels: pairs of an Arrow map, a struct's mapping, or JSON text of a mapping."""
        if isinstance(value, str):
            value = self._parsed(value)
        if isinstance(value, Mapping):
            pairs = list(value.items())
        else:
            pairs = value if isinstance(value, list) else []
        read = {str(name): _value_names(values) for name, values in pairs}
        return {name: values for name, values in read.items() if values}

    def _parsed(self, text: str) -> object:
        try:
            value = json.loads(text or "null")
        except ValueError:
            value = text
        if value is None or isinstance(value, dict):
            return value
        self.unreadable_labels += 1
        return None


def _own_places(location: str) -> tuple[Place, ...]:
    """Return the table's own folder as places.

    Raises:
        InvalidInput: if it cannot be told.
    """
    if scheme_of(location) in ("", "file"):
        return folder_place(os.path.dirname(local_path(location) or location))
    try:
        place = place_of(location)
    except ValueError as error:
        raise InvalidInput(f"source table {shown_uri(location)}: {error}") from error
    return (Place(place.scheme, place.authority, place.path[:-1]),)


def _value_names(values: object) -> list[str]:
    """Return the value names of one attribute, given as one name or a list of them."""
    if values is None or values == "":
        return []
    if isinstance(values, list):
        return [str(value) for value in values if value is not None]
    return [str(values)]


def _text_types(names: list[str]) -> dict[str, str]:
    """Force text where a name is ours: "00123" is a key and not the number 123."""
    types = {name: "VARCHAR" for name in names if name in _TEXT_COLUMNS}
    return types | ({"labels": "VARCHAR"} if "labels" in names else {})


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _plain(column: pa.Array) -> pa.Array:
    """Return a column without dictionary encoding, whose codes differ from batch to batch."""
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _text(column: pa.Array, source: str, name: str) -> pa.Array:
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(
            f"source {source}: column {name}: expected text, found {column.type}: {error}"
        ) from error
