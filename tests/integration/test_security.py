"""A partner's catalog that means ill, and a lake that somebody wrote into."""

import base64
import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agman.checkpoint import WEIGHTS, load_model
from agman.errors import CheckpointMismatch
from pipelines.embedding import EmbedOptions
from pipelines.index import read_index
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.quality import GateOptions
from pipelines.search import open_searcher
from pipelines.shards.plan import ShardOptions
from pipelines.shards.read import stream_samples
from pipelines.storage.objects import FileEntry, describe
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run, escaped

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("within_process")]

SECRETS = ("hunter2", "c0ffee5191", "canary-of-the-environment")
KEYS = (
    "../../../etc/x",
    "/etc/x",
    "a\nb",
    "nul\0",
    "k" * 5000,
    "<script>alert(1)</script>",
    "=cmd()",
    "[/x]\x1b[2J",
)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8))


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives a picture to who has the password and the signature."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        basic = f"Basic {base64.b64encode(b'partner:hunter2').decode()}"
        known = self.headers.get("Authorization") == basic and self.path.endswith("?signature=c0ffee5191")
        self.send_response(200 if known else 403)
        self.end_headers()
        if known and self.command == "GET":
            picture(77).save(self.wfile, "PNG")

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[str]:
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def feed(tmp_path: Path, server: str) -> Path:
    """The partner's folder, in it a table; a picture of somebody else lies beside it."""
    folder = tmp_path / "feed"
    folder.mkdir()
    picture(99).save(tmp_path / "private.png")
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    rows = {f"good-{number}": f"{number}.png" for number in range(3)} | {key: f"{key!r}.png" for key in KEYS}
    rows = {key: f"{number}.png" for number, key in enumerate(rows)}
    for number, file in enumerate(rows.values()):
        picture(number).save(folder / file)
    rows |= {
        "passwd": "/etc/passwd",
        "file": "file:///etc/passwd",
        "encoded": f"file://{folder}/%2e%2e/private.png",
        "environment": "/proc/self/environ",
        "sibling": "../private.png",
        "link": "link.png",
        "pipe": f"pipe:touch {tmp_path}/pwned",
        "shell": f"| touch {tmp_path}/pwned",
        "bucket": "s3://payroll/a.png",
        "metadata": "http://169.254.169.254/latest/meta-data/iam",
        "loopback": "http://hunter2:hunter2@127.0.0.1:1/a.png?signature=c0ffee5191",
        "signed": f"http://partner:hunter2@{server}/a.png?signature=c0ffee5191",
        "unsigned": f"http://partner:hunter2@{server}/a.png?signature=c0ffee5191&x",
    }
    pq.write_table(pa.table({"key": list(rows), "uri": list(rows.values())}), folder / "t.parquet")
    return folder / "t.parquet"


def night(lake: Lake, source: Path, model: Path, *allow_uris: str) -> Manifest:
    config = NightConfig(
        lake=lake.url,
        source=str(source),
        model=str(model),
        shards=ShardOptions(images_per_shard=16, allow_uris=allow_uris),
        embed=EmbedOptions(num_workers=1),
        gates=GateOptions(max_quarantined=1.0),
    )
    manifest = run_night(config, run := Run("nightly", config, lake))
    run.leave_report("done")
    assert manifest is not None
    return manifest


def rows(lake: Lake, manifest: Manifest, file: str) -> dict[str, dict]:
    with lake.checked(manifest.files[file]) as path:
        return {row["key"]: row for row in pq.read_table(path).to_pylist()}


def test_a_catalog_reads_no_more_than_it_may(
    feed: Path,
    server: str,
    tmp_path: Path,
    lake: Lake,
    other_taxonomy_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[2])
    first = night(lake, feed, other_taxonomy_model, f"http://{server}")
    assert set(rows(lake, first, "catalog.parquet")) == {"good-0", "good-1", "good-2", *KEYS, "signed"}
    assert {key: row["kind"] for key, row in rows(lake, first, "quarantine.parquet").items()} == {
        **dict.fromkeys(
            (
                "passwd",
                "file",
                "encoded",
                "environment",
                "sibling",
                "link",
                "pipe",
                "bucket",
                "metadata",
                "loopback",
            ),
            "uri_not_allowed",
        ),
        "shell": "missing",
        "unsigned": "forbidden",
    }
    assert not (tmp_path / "pwned").exists()
    said = "".join(capsys.readouterr())
    assert "9 records have a uri that is not allowed: s3://payroll/a.png: expected a uri below" in said
    check_no_secret(lake, said)
    assert {path.name.split(".")[-1] for path in tmp_path.iterdir()} == {"feed", "png"}

    # What was refused is looked at as soon as it is allowed; nothing else is embedded again.
    second = night(lake, feed, other_taxonomy_model, f"http://{server}", str(tmp_path / "private.png"))
    added = set(rows(lake, second, "catalog.parquet")) - set(rows(lake, first, "catalog.parquet"))
    assert added == {"encoded", "sibling", "link"}
    assert second.counts["images_embedded"] == 1
    with open_searcher(lake) as searcher:
        for key in KEYS:
            assert searcher.search(searcher.embedding_of(key), {"skirt_length": 1.0}, 1)


def check_no_secret(lake: Lake, said: str) -> None:
    """The catalog and a shard's index hold the shop's own column; nothing else that is kept or said may."""
    texts = {"said": said}
    for name in lake.store.list_names(""):
        if name.endswith((".json", ".html")):
            texts[name] = lake.store.read(name).body.decode()
        elif (
            name.endswith(".parquet")
            and not name.startswith("shards/")
            and not name.endswith("/catalog.parquet")
        ):
            with lake.store.local_copy(name) as path:
                texts[name] = str(pq.read_table(path).to_pylist())
    assert [(name, word) for name, text in texts.items() for word in SECRETS if word in text] == []
    (page,) = (text for name, text in texts.items() if name.endswith(".html"))
    assert "<script" not in page
    assert any(name.startswith("receipts/") for name in texts)
    assert any(name.startswith("runs/") for name in texts)


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_in_the_lake_is_never_run(tmp_path: Path, lake: Lake, tiny_model: Path) -> None:
    mark = tmp_path / "pwned"
    evil = pickle.dumps(Evil(mark))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    (model / WEIGHTS).write_bytes(evil)
    with pytest.raises(CheckpointMismatch):
        load_model(model)
    lake.store.put_if_absent("indexes/m/a/g.faiss", evil)
    with pytest.raises(RuntimeError, match=r"faiss|Index"):
        read_index(lake, describe(lake.store, "indexes/m/a/g.faiss"))
    assert not mark.exists()


def test_a_tar_is_opened_as_a_file_whatever_its_url_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("pipe:touch pwned", "| touch pwned", "file:///etc/passwd", "http://127.0.0.1:1/a.tar"):
        with pytest.raises(OSError, match="No such file"):
            next(stream_samples([url]))
    assert list(tmp_path.iterdir()) == []


def test_a_file_entry_cannot_leave_the_lake() -> None:
    for name in (
        "../x",
        "/etc/passwd",
        "a/../../x",
        "pipe:cat /etc/passwd",
        "s3://other/x",
        "a\0b",
        "a" * 256,
        "",
    ):
        with pytest.raises(ValueError, match="inside the lake"):
            FileEntry(name, 1, "0" * 64)


def test_a_table_obeys_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert escaped("[/x]\x1b[2J\n") == "\\[/x]\\x1b[2J\\n"
