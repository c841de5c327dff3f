"""Parts: the Parquet files that one shard becomes under one model, one file per attribute.

A part's row is a picture: its sha256 and its embedding under the file's attribute. Row order is the same in
all of a part's files. Which product shows which picture is the catalog's business.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import Lake, embedding_part, working_folder
from pipelines.storage.objects import FileEntry, store_file

NORM_TOLERANCE = 1e-3  # float16 rounding of 512 components of about 0.04 moves the norm by some 1e-5


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
) -> dict[str, FileEntry]:
    """Write a part's Parquet files and return their entries by attribute.

    Args:
        lake: where.
        model: model id.
        part: name of the part.
        attributes: the A attribute names.
        digests: sha256 of the B pictures.
        embeddings: [B, A, D] float32, unit norm.
    """
    files = {}
    with working_folder() as folder:
        for index, attribute in enumerate(attributes):
            path = folder / f"{attribute}.parquet"
            write_embeddings(path, digests, embeddings[:, index])
            files[attribute] = store_file(
                lake.store, path, embedding_part(model, attribute, part), len(digests)
            )
    return files


def write_embeddings(path: Path, digests: Sequence[str], embeddings: np.ndarray) -> None:
    """Write one attribute of a part: sha256 and fixed_size_list<float32>[D].

    Byte-stream-split puts equal bytes side by side, where zstd finds them; a dictionary would only add to it.
    """
    values = pa.array(np.ascontiguousarray(embeddings).reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1])
    table = pa.table({"sha256": pa.array(list(digests), pa.string()), "embedding": column})
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=False,
        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT", "sha256": "PLAIN"},
    )


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """Return (sha256 of each row, embeddings [N, D] float32) of one attribute of a part."""
    table = pq.read_table(path)
    column = table["embedding"].combine_chunks()
    return table["sha256"].to_pylist(), column.flatten().to_numpy().reshape(len(table), column.type.list_size)
