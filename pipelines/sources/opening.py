"""One string says where a catalog comes from."""

import difflib
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from agman.errors import InvalidInput
from pipelines.redaction import shown_uri
from pipelines.sources import asen, fashionai_raw, zappos50k
from pipelines.sources.allowed import REMOTE_SCHEMES, scheme_of
from pipelines.sources.benchmark import Benchmark
from pipelines.sources.folder import FolderSource
from pipelines.sources.generated import parse_generated
from pipelines.sources.readers import TABLE_SUFFIXES
from pipelines.sources.records import Source
from pipelines.sources.table import TableSource

_TABLES = ", ".join(TABLE_SUFFIXES)
BENCHMARKS: dict[str, Callable[[str], Benchmark]] = {
    **{spec: partial(asen.open_asen, spec) for spec in asen.ASEN_NAMES},
    "fashionai-raw": fashionai_raw.open_fashionai_raw,
    "zappos50k": zappos50k.open_zappos50k,
}
"""Word before the colon -> what opens the path behind it."""
_EXPECTED = (
    f"a folder of pictures, a table ({_TABLES}; local or a URL), a benchmark's folder after one of "
    f"{', '.join(f'{spec}:' for spec in BENCHMARKS)}, or generated:num_images=3000"
)


def open_source(spec: str, allow_uris: Sequence[str] = ()) -> Source:
    """Open the source a person named.

    Args:
        spec: a folder; a table `*.parquet|*.csv|*.jsonl|*.ndjson|*.json`, local or as a URL;
            a public benchmark on this machine, `fashionai:/data/FashionAI`, see BENCHMARKS;
            or `generated:num_images=3000,seed=0,night=1`.
        allow_uris: where pictures may be beside the source's own folder; empty: for a table, at public web
            addresses.

    Returns:
        The source; none of its records was read yet.

    Raises:
        InvalidInput: one line that says what was expected and what to do.
    """
    if spec == "generated" or spec.startswith("generated:"):
        return parse_generated(spec.removeprefix("generated").removeprefix(":"))
    kind, colon, path = spec.partition(":")
    if colon and kind.lower() in BENCHMARKS:
        return BENCHMARKS[kind.lower()](path).allow(allow_uris)
    _refuse_benchmark(spec)
    is_table = spec.lower().endswith(TABLE_SUFFIXES)
    if "://" in spec:
        return _remote(spec, is_table, allow_uris)
    if is_table and (os.path.isfile(spec) or (os.path.isdir(spec) and spec.lower().endswith(".parquet"))):
        return TableSource(
            spec, allow_uris
        )  # a folder named *.parquet is a table in several files, as Spark writes it
    if os.path.isdir(spec):
        return FolderSource(spec)
    if os.path.exists(spec):
        raise InvalidInput(f"source {spec}: expected {_EXPECTED}; found a file of another kind")
    shown = spec if spec.isprintable() and spec else repr(spec)
    raise InvalidInput(f"source {shown}: no such folder or file; {_advice(spec)}")


def _remote(spec: str, is_table: bool, allow_uris: Sequence[str]) -> Source:
    if scheme_of(spec) not in REMOTE_SCHEMES:
        raise InvalidInput(
            f"source {shown_uri(spec)}: expected a scheme of {', '.join(REMOTE_SCHEMES)}, "
            f"found {scheme_of(spec) or 'none'}"
        )
    if not is_table:
        raise InvalidInput(
            f"source {shown_uri(spec)}: a remote source is a table, expected one of {_TABLES}; "
            "write a table with columns key and uri that lists the pictures"
        )
    return TableSource(spec, allow_uris)


def _refuse_benchmark(spec: str) -> None:
    """Refuse a benchmark given as a plain path: its labels, roles and triplets would be lost without a word.

    Raises:
        InvalidInput: with the word to write before the path.
    """
    found = _recognised(Path(spec)) if spec and "://" not in spec else ""
    if found:
        raise InvalidInput(
            f"source {spec}: this is a public benchmark, whose labels a plain path would lose; write "
            f"{found}:{spec}, or name the folder of its pictures alone"
        )


def _recognised(path: Path) -> str:
    """Return the word that opens a path if it looks like a benchmark, else ""."""
    if os.path.isfile(path):
        return "fashionai-raw" if _has_answers(path) else ""
    if not os.path.isdir(path):
        return ""
    for spec, name in asen.ASEN_NAMES.items():
        own = path if path.resolve().name.lower() == spec else path / name
        if (own / asen.FILES[0]).is_file():
            return spec
    if (path / asen.FILES[0]).is_file() and (path / asen.FILES[1]).is_file():
        return " or ".join(asen.ASEN_NAMES)
    if (path / zappos50k.FILENAMES).is_file() and (path / "tripletlists").is_dir():
        return "zappos50k"
    answers = (path / fashionai_raw.LABELS_FILE, path / "Annotations" / fashionai_raw.LABELS_FILE)
    return "fashionai-raw" if any(_has_answers(each) for each in answers) else ""


def _has_answers(path: Path) -> bool:
    """Tell whether the first or, after a header, the second line is one of FashionAI's."""
    if path.suffix.lower() != ".csv" or not os.path.isfile(path):
        return False
    with path.open(encoding="utf-8", errors="replace") as stream:
        return any(re.match(fashionai_raw.LINE, line.strip()) for line in islice(stream, 2))


def _advice(spec: str) -> str:
    if spec.lower() in BENCHMARKS:
        return f"expected {spec.lower()}:<folder of the data set>"
    parent, name = os.path.split(spec.rstrip("/"))
    try:
        siblings = os.listdir(parent or ".")
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return f"expected {_EXPECTED}"
    close = difflib.get_close_matches(name, siblings, n=1)
    return f"did you mean {os.path.join(parent, close[0])}?" if close else f"expected {_EXPECTED}"
