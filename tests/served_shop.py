"""A small shop's lake with two published nights, and `jobs/serve.py` over it on loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import requests
import torch
from inline_ray import inline_ray
from loopback import dies_with_parent, free_ports, wait_until

from agman.checkpoint import load_model, save_model
from agman.fitting import fit
from agman.prototypes import most_values
from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake, bytes_sha256, snapshot_file
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.query_model import QueryModel
from pipelines.serving.config import TOKEN_VARIABLE
from pipelines.sources import drawing
from pipelines.storage.snapshots import read_pointer, swap_pointer
from pipelines.telemetry import Run

ROOT = Path(__file__).parents[1]
TOKEN = "as-good-as-any"
KEYS = [f"style-{number:02d}" for number in range(20)] + [
    "women/dresses/A 17",
    "a//b",
    "../c",
    "100%/n\u00e9?&#+",
]
BRANDS = ("Acme", "Bruma", "O'Neill")
UPLOAD_BYTES = 400_000
PIXELS = 2_000_000


@dataclass(frozen=True)
class ServedShop:
    """A service that answers."""

    url: str
    lake: Lake
    snapshots: tuple[str, str]
    pictures: dict[str, bytes]
    """By key."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, **options: object) -> requests.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, **options: object) -> requests.Response:
        return self.ask("POST", path, **options)

    def ask(self, method: str, path: str, token: str = TOKEN, **options: object) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= options.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def publish(self, snapshot: str) -> None:
        """Swap the pointer to one of the two nights."""
        found = read_pointer(self.lake)
        manifest = self.lake.store.read(snapshot_file(snapshot, "manifest.json")).body
        pointer = replace(
            found, snapshot=snapshot, commit_uuid=uuid4().hex, manifest_sha256=bytes_sha256(manifest)
        )
        swap_pointer(self.lake, pointer, found.version)

    def is_served(self, snapshot: str) -> bool:
        return self.get("/healthz").json()["snapshot"] == snapshot


@contextmanager
def served_shop(folder: Path, untaught: Path) -> Iterator[ServedShop]:
    """Serve a shop of a local lake."""
    shop = published_shop(Lake(str(folder / "lake")), folder, untaught)
    with started(folder, shop):
        yield shop


def published_shop(lake: Lake, folder: Path, untaught: Path) -> ServedShop:
    """Publish two nights and then the first one again; the second lacks the first product."""
    garments = {key: drawing.sample_garment(key, 0) for key in KEYS}
    pictures = {key: drawing.draw_jpeg(key, 0, 0, 64) for key in KEYS}
    model = teach(untaught, garments, pictures, folder / "model")
    with inline_ray():
        snapshots = [night(lake, folder, pictures, keys, model) for keys in (KEYS, KEYS[1:])]
    (port,) = free_ports(1)
    shop = ServedShop(f"http://127.0.0.1:{port}", lake, (snapshots[0], snapshots[1]), pictures)
    shop.publish(snapshots[0])
    return shop


def teach(untaught: Path, garments: dict, pictures: dict[str, bytes], folder: Path) -> Path:
    """Give a model words for what its pictures show."""
    loaded = load_model(untaught)
    model = QueryModel(loaded)
    seen = model.see([model.read(encoded) for encoded in pictures.values()])
    vectors = torch.stack(
        [torch.stack([torch.from_numpy(v) for v in each.vectors.values()]) for each in seen]
    )
    shown = torch.zeros(len(pictures), len(loaded.taxonomy), most_values(loaded.taxonomy), dtype=torch.bool)
    for row, garment in enumerate(garments.values()):
        for place, attribute in enumerate(loaded.taxonomy):
            if value := garment.labels.get(attribute.name):
                shown[row, place, attribute.values.index(value)] = True
    prototypes = fit(vectors, shown, loaded.taxonomy)
    save_model(loaded.model, loaded.taxonomy, loaded.preprocess, folder, prototypes=prototypes)
    return folder


def night(lake: Lake, folder: Path, pictures: dict[str, bytes], keys: list[str], model: Path) -> str:
    """Publish some of the pictures, and return the snapshot."""
    files = folder / "pictures"
    files.mkdir(exist_ok=True)
    for number, encoded in enumerate(pictures.values()):
        (files / f"{number}.jpg").write_bytes(encoded)
    numbers = [KEYS.index(key) for key in keys]
    table = {
        "key": keys,
        "uri": [f"pictures/{number}.jpg" for number in numbers],
        "sku": [f"{number:06d}" for number in numbers],
        "brand": [BRANDS[number % 3] for number in numbers],
        "price": [10.0 * number if number else None for number in numbers],
        "in_stock": [number % 2 == 0 for number in numbers],
        "added": [date(2026, 1, 1) + timedelta(number) for number in numbers],
        "style": [f"of {number // 2}" for number in numbers],
        "sizes": [["s", "m"] for _ in numbers],
    }
    pq.write_table(pa.table(table), folder / "products.parquet")
    config = NightConfig(
        lake=lake.url,
        source=str(folder / "products.parquet"),
        model=str(model),
        embed=EmbedOptions(num_workers=1, precision="float32"),
    )
    manifest = run_night(config, Run("nightly", config, lake))
    assert manifest is not None
    return manifest.id


@contextmanager
def started(folder: Path, shop: ServedShop) -> Iterator[None]:
    """Run the job until the end of a `with`, and see that it ends well."""
    arguments = [
        "--lake", shop.lake.url, "--port", str(shop.port), "--poll-s", "0.1",
        "--product-column", "style", "--limits.upload-bytes", str(UPLOAD_BYTES),
        "--limits.pixels", str(PIXELS), "--limits.ongoing", "4", "--limits.queued", "8",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), TOKEN_VARIABLE: TOKEN}
    log = folder / "serve.log"
    with log.open("wb") as stream:
        job = subprocess.Popen(
            [sys.executable, ROOT / "jobs/serve.py", *arguments],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=stream,
            preexec_fn=dies_with_parent,
        )
        try:
            wait_until("service", lambda: job.poll() is not None or _answers(shop))
            assert job.poll() is None, log.read_text()
            yield
        finally:
            job.terminate()
            job.wait(timeout=60)
    assert job.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def _answers(shop: ServedShop) -> bool:
    try:
        found = shop.get("/healthz", token="")
    except requests.ConnectionError:
        return False
    assert found.status_code in (200, 503), found.text
    assert found.status_code == 200 or set(found.json()) == {"error"}
    return found.status_code == 200
