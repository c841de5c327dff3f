"""The lake: what lies where, and how its objects are read back and checked.

```
shards/<dataset>/<shard>.tar            pictures and labels, immutable
shards/<dataset>/<shard>.parquet        the tar's index
models/<model>/                         weights.safetensors, config.json, prototypes.safetensors
models/<model>/metrics/                 <dataset>-<split>.json, the first evaluation on each
embeddings/model=<model>/attribute=<attribute>/<part>.parquet
indexes/<model>/<attribute>/<group>.faiss      and <template>.faiss: trained lists that groups are added to
indexes/<model>/ids/<group>.parquet     what each row of a group's FAISS files is
                                        a snapshot of a model with attributes added lists files of the
                                        models before it as well: docs/add-an-attribute.md
snapshots/<id>/                         manifest.json, catalog.parquet, quarantine.parquet, report.json, .html
receipts/<stage>/…/<unit>.json          proof that a unit of work is complete
runs/<run>/                             what a job leaves behind: report.json, left_out.parquet (records that
                                        training or evaluation cannot use), training checkpoints
views.sql                               for DuckDB: opens the published snapshot as views
CURRENT.json                            the only mutable object: names the published snapshot
```
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.errors import CorruptShard
from pipelines.storage.full import told_when_full
from pipelines.storage.objects import FileEntry, ObjectStore, file_sha256
from pipelines.storage.opening import open_store

CURRENT = "CURRENT.json"
VIEWS = "views.sql"
DIGEST_LETTERS = 16  # 64 bits of sha256 name a unit: a billion units meet by chance once in 40


def digest_of(value: Any) -> str:
    """Return the hex sha256 of a JSON value in canonical form."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()


def bytes_sha256(body: bytes) -> str:
    """Return the hex sha256 of bytes."""
    return hashlib.sha256(body).hexdigest()


def short_digest(value: Any) -> str:
    """Return the first letters of `digest_of`, enough to name a unit of work."""
    return digest_of(value)[:DIGEST_LETTERS]


def to_json(value: Any) -> bytes:
    """Return a JSON object as people read it, with a last newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str) + "\n").encode()


def shard_tar(dataset: str, shard: str) -> str:
    """Name of a shard's tar."""
    return f"shards/{dataset}/{shard}.tar"


def shard_index(dataset: str, shard: str) -> str:
    """Name of a shard's index."""
    return f"shards/{dataset}/{shard}.parquet"


def model_folder(model: str) -> str:
    """Name of the folder of a published model."""
    return f"models/{model}"


def embedding_part(model: str, attribute: str, part: str) -> str:
    """Name of a part's Parquet file of one attribute."""
    return f"embeddings/model={model}/attribute={attribute}/{part}.parquet"


def index_file(model: str, attribute: str, group: str) -> str:
    """Name of the FAISS file of a group of parts."""
    return f"indexes/{model}/{attribute}/{group}.faiss"


def index_ids(model: str, group: str) -> str:
    """Name of the table that tells what each row of a group's FAISS files is: the same for all attributes."""
    return f"indexes/{model}/ids/{group}.parquet"


def snapshot_file(snapshot: str, file: str) -> str:
    """Name of a file of a snapshot."""
    return f"snapshots/{snapshot}/{file}"


def receipt(stage: str, unit: str) -> str:
    """Name of the proof that a unit of a stage is complete."""
    return f"receipts/{stage}/{unit}.json"


def unit_of(name: str) -> tuple[str, str]:
    """Return stage and name of the unit that made an embedding or index file, of whatever model."""
    folder, model, *_, file = name.split("/")
    return f"{folder}/{model.removeprefix('model=')}", PurePosixPath(file).stem


@dataclass(frozen=True, slots=True)
class Lake:
    """The root of it all; travels to Ray workers as its URL."""

    url: str
    """s3://bucket/prefix, or a local path, made absolute: workers have working folders of their own."""
    unsafe_single_writer: bool = False
    """Write to an S3 store that has no conditional writes: safe while one run writes at a time."""

    def __post_init__(self) -> None:
        """Make a local path absolute."""
        if "://" not in self.url:
            object.__setattr__(self, "url", str(Path(self.url).expanduser().absolute()))

    @property
    def store(self) -> ObjectStore:
        """The object store at the lake's root."""
        return open_store(self.url, unsafe_single_writer=self.unsafe_single_writer)

    @contextmanager
    def checked(self, entry: FileEntry) -> Iterator[Path]:
        """Give a local path to a file whose size and digest were just compared with its entry.

        Raises:
            CorruptShard: if the stored bytes are not those of the entry.
        """
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self.store.local_copy(entry.name))
            except FileNotFoundError as error:
                raise CorruptShard(
                    f"{self.url}/{entry.name}: a receipt or manifest lists this file but it is gone; "
                    "the next night makes it again",
                    entry.name,
                ) from error
            found = FileEntry(entry.name, path.stat().st_size, file_sha256(path), entry.num_rows)
            if found != entry:
                raise CorruptShard(
                    f"{self.url}/{entry.name}: expected {entry.num_bytes} bytes with sha256 "
                    f"{entry.sha256[:12]}…, found {found.num_bytes} with {found.sha256[:12]}…; "
                    "the next night makes it again",
                    entry.name,
                )
            yield path


@contextmanager
def working_folder() -> Iterator[Path]:
    """Give a temporary folder: every file is written here whole, checked, then uploaded once."""
    with (
        told_when_full(tempfile.gettempdir()),
        tempfile.TemporaryDirectory(prefix="agman-") as folder,
    ):
        yield Path(folder)
