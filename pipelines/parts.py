"""Parts: the Parquet files that one shard becomes under one model, one file per attribute.

A part's row is a picture under the file's attribute:

```
sha256     string                      of the picture's bytes
embedding  fixed_size_list<float32>[D] unit norm
value      string                      what it shows; null where the attribute does not apply, or is not known
score      float                       probability that the value is right; null where there is no value
applies    bool                        whether the picture has the attribute at all; null where not known
```

Not known is what a model without prototypes says of everything. One that learned from pictures with a label
of a single attribute each cannot tell who has the others: it names a value and leaves `applies` null, but for
pictures that look like none that it learned from, which are false. So `value is not null` counts what is
named, and `applies` what is known to be there. Parts that were written before there were
values lack the last three columns; `read_values` reads them as not known, and DuckDB does so with
`union_by_name=true`. Row order is the same in all of a part's files. Which product shows which picture is the
catalog's business.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import Lake, embedding_part, working_folder
from pipelines.storage.objects import FileEntry, store_file

VALUE_SCHEMA = pa.schema([("value", pa.string()), ("score", pa.float32()), ("applies", pa.bool_())])
"""What a row says in words, beside its embedding."""
NORM_TOLERANCE = 1e-3  # float16 rounding of 512 components of about 0.04 moves the norm by some 1e-5


class Shown(NamedTuple):
    """What a model says that a picture shows of one attribute: a row of VALUE_SCHEMA."""

    value: str | None = None
    score: float | None = None
    applies: bool | None = None


def round_to_half(embeddings: np.ndarray) -> np.ndarray:
    """Round to float16's precision and keep float32: the mantissa bytes that become zero compress away."""
    return embeddings.astype(np.float16).astype(np.float32)


def write_part(
    lake: Lake,
    model: str,
    part: str,
    attributes: Sequence[str],
    digests: Sequence[str],
    embeddings: np.ndarray,
    values: Mapping[str, pa.Table] | None = None,
) -> dict[str, FileEntry]:
    """Write a part's Parquet files and return their entries by attribute.

    Args:
        lake: where.
        model: model id.
        part: name of the part.
        attributes: the A attribute names.
        digests: sha256 of the B pictures.
        embeddings: [B, A, D] float32, unit norm.
        values: by attribute, B rows of VALUE_SCHEMA; None where nothing is known.
    """
    files = {}
    with working_folder() as folder:
        for index, attribute in enumerate(attributes):
            path = folder / f"{attribute}.parquet"
            write_embeddings(path, digests, embeddings[:, index], values[attribute] if values else None)
            files[attribute] = store_file(
                lake.store, path, embedding_part(model, attribute, part), len(digests)
            )
    return files


def write_embeddings(
    path: Path, digests: Sequence[str], embeddings: np.ndarray, values: pa.Table | None = None
) -> None:
    """Write one attribute of a part, as the head of this module describes it.

    Byte-stream-split puts equal bytes side by side, where zstd finds them; a dictionary would only add to it.
    """
    components = pa.array(np.ascontiguousarray(embeddings).reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(components, embeddings.shape[1])
    said = nothing_known(len(digests)) if values is None else values
    columns = {name: said[name] for name in VALUE_SCHEMA.names}
    table = pa.table({"sha256": pa.array(list(digests), pa.string()), "embedding": column, **columns})
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=["value"],
        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT", "sha256": "PLAIN"},
    )


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """Return (sha256 of each row, embeddings [N, D] float32) of one attribute of a part."""
    table = pq.read_table(path, columns=["sha256", "embedding"])
    column = table["embedding"].combine_chunks()
    return table["sha256"].to_pylist(), column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def read_digests(path: Path) -> list[str]:
    """Return the sha256 of the picture of each row of a part's file."""
    digests: list[str] = pq.read_table(path, columns=["sha256"])["sha256"].to_pylist()
    return digests


def read_values(path: Path) -> pa.Table:
    """Return what the rows of one attribute of a part say, as VALUE_SCHEMA."""
    with pq.ParquetFile(path) as file:
        if set(VALUE_SCHEMA.names) <= set(file.schema_arrow.names):
            return file.read(columns=VALUE_SCHEMA.names)
        return nothing_known(file.metadata.num_rows)


def nothing_known(num_rows: int) -> pa.Table:
    """Return rows of VALUE_SCHEMA that say nothing."""
    return pa.table([pa.nulls(num_rows, field.type) for field in VALUE_SCHEMA], schema=VALUE_SCHEMA)
