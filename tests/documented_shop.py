"""A folder in which the documents' commands run: the files and the products that they name."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from command_lines import JOB, commands_in
from documents import ROOT, blocks

from agman.taxonomy import FASHIONAI
from pipelines.sources import drawing

NUM_PRODUCTS = 48
ROLES = ("train", "train", "valid", "train", "query", "candidate")
"""Said, since of so few products chance would hold out too few for the figures that a training ends with."""
PICTURE_PIXELS = 48
HEELS = ("flat", "low", "high")


def commands_of(document: str) -> list[list[str]]:
    """Return the words of a document's commands, in their order."""
    return [words for block in blocks("") if block.document == document for words in commands_in(block.text)]


def job_of(words: list[str]) -> str:
    """Return the file name of the job that a command starts; empty where it starts none."""
    return next((f"{found[1]}.py" for word in words if (found := JOB.fullmatch(word))), "")


def make_shop(folder: Path) -> Path:
    """Fill a folder with what the documents name: pictures, tables, a query, the checkout's own folders."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "jobs").symlink_to(ROOT / "jobs")
    (folder / ".venv").symlink_to(sys.prefix)
    rows = [_product(folder, f"SKU-{number}") for number in range(1, NUM_PRODUCTS + 1)]
    names = ["key", "uri", "brand", "price", "category"]
    for number, row in enumerate(rows):
        row["role"] = ROLES[number % len(ROLES)]
        row["labels"] = json.dumps({"heel_height": [HEELS[number // len(ROLES) % len(HEELS)]]})
    _write(folder / "labelled.parquet", rows, [*names, "role", *FASHIONAI.names])
    _write(folder / "products.parquet", rows, names)
    _write(folder / "heels.parquet", rows, ["key", "uri", "role", "labels"])
    (folder / "query.jpg").write_bytes(drawing.draw_jpeg("of the street", 1, 0, PICTURE_PIXELS))
    return folder


def _product(folder: Path, key: str) -> dict[str, object]:
    garment = drawing.sample_garment(key, 0)
    picture = folder / "pictures" / f"{key}.jpg"
    picture.write_bytes(drawing.draw_jpeg(key, 0, 0, PICTURE_PIXELS))
    return {"key": key, "uri": f"pictures/{key}.jpg", **garment.columns, **garment.labels}


def _write(path: Path, rows: list[dict[str, object]], names: list[str]) -> None:
    table = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(table), path)


def copy_shop(shop: Path, folder: Path) -> Path:
    """Copy a shop as its first evening left it, without what training keeps to go on."""
    return Path(shutil.copytree(shop, folder, symlinks=True, ignore=shutil.ignore_patterns("runs")))


def sell_out(shop: Path) -> None:
    """Let a day pass: one product leaves the catalog, another one gets cheaper."""
    path = shop / "products.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["price"] = 1.0
    pq.write_table(pa.Table.from_pylist(rows[:-1]), path)


def typed(words: list[str], *options: str) -> str:
    """Return a document's command as a person would type it, with options after its own words."""
    return shlex.join([*words, *options])


def in_shell(words: list[str], *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as it is written."""
    return subprocess.run(
        ["bash", "-c", typed(words, *options)], cwd=cwd, capture_output=True, text=True, timeout=280
    )
