"""What a training asks of a night's tables: where pictures are, what is said of them, what is left out."""

from pathlib import Path

from pipelines.dataset import Description
from pipelines.tables import Tables

LEFT_OUT = """select key, redacted_uri(uri) as uri, kind, message from refused
              union all select key, uri, kind, message from still_quarantined
              union all select key, redacted_uri(uri), kind, error from fetched where status <> 'ok'"""


def homes(tables: Tables) -> dict[str, str]:
    """Return sha256 -> the one shard that tonight's picture is read from, embedded or not."""
    return dict(tables.all("select sha256, shard from homes"))


def descriptions(tables: Tables) -> dict[str, tuple[Description, ...]]:
    """Return what the source says of each live picture: each different use once, in the order of keys."""
    rows = tables.all(
        """select l.sha256, s.role, s.labels from live l join source s using (key)
        group by all order by l.sha256, min(s.key)"""
    )
    uses: dict[str, list[Description]] = {}
    for sha256, role, labels in rows:
        uses.setdefault(sha256, []).append(Description(role, dict(labels or {})))
    return {sha256: tuple(found) for sha256, found in uses.items()}


def digests(tables: Tables) -> dict[str, str]:
    """Return key -> sha256 of every live picture."""
    return dict(tables.all("select key, sha256 from live"))


def left_out(tables: Tables) -> list[tuple[str, int, str]]:
    """Return (kind, number of records, the first one's key) of what cannot be used, most first."""
    return tables.all(
        f"""select kind, count(*) as found, min(key) from ({LEFT_OUT})
        group by kind order by found desc, kind"""
    )


def write_left_out(tables: Tables, path: Path) -> None:
    """Write key, uri, kind and message of every record that cannot be used, sorted by key."""
    tables.all(f"copy ({LEFT_OUT} order by key, uri) to '{path}' (format parquet, compression zstd)")
