"""Two replicas over a lake on S3: they answer as from a disk, and a publication fails no request."""

import io
import threading
from collections.abc import Callable, Iterator

import pytest
from loopback import wait_until
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from served_shop import TOKEN, ServedShop, published_shop

from pipelines.lake import Lake
from pipelines.search import open_searcher

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings(
        "ignore:Using extra keyword arguments:DeprecationWarning"
    ),  # of ray.serve itself
]

REPLICAS = 2
ONE = {"attributes": '{"neckline_design": 1}'}


@pytest.fixture(scope="module")
def shop(
    local_ray: None, new_lake: Callable[[], Lake], tmp_path_factory: pytest.TempPathFactory, tiny_model
) -> Iterator[ServedShop]:
    """A shop on S3, served by the Ray of the session; Serve ends with this file."""
    from ray import serve

    from pipelines.serving.config import ServeConfig
    from pipelines.serving.deployment import serving
    from pipelines.serving.guards import token_digest

    folder = tmp_path_factory.mktemp("shop")
    found = published_shop(new_lake(), folder, tiny_model)
    config = ServeConfig(lake=found.lake.url, port=found.port, replicas=REPLICAS, poll_s=0.1)
    figures = str(folder / "figures")
    with serving(config, threads=1, cpus=0, token=token_digest(TOKEN), folder=figures):
        yield found
    serve.shutdown()


def figure(shop: ServedShop, name: str) -> float:
    """Return a figure without labels, of both replicas together."""
    families = text_string_to_metric_families(shop.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return next(sample.value for sample in samples if sample.name == name)


def num_loads(shop: ServedShop) -> float:
    return figure(shop, "agman_serve_snapshot_load_seconds_count")


def test_it_answers_from_s3(shop: ServedShop) -> None:
    assert num_loads(shop) == REPLICAS
    found = shop.get("/similar/style-03?attributes=neckline_design&k=4&include_absent=true").json()
    with open_searcher(shop.lake) as searcher:
        row = searcher.row_of("style-03")
        query = searcher.vectors_of(row, ["neckline_design"])
        hits = searcher.search(query, {"neckline_design": 1.0}, 4, exclude=[row["sha256"]])
    assert [result["key"] for result in found["results"]] == [hit.key for hit in hits]
    with Image.open(io.BytesIO(shop.get(found["results"][0]["picture"]).content)) as image:
        assert image.height == 256
    own = ONE | {"exclude_same_product": "false", "k": "1"}
    same = shop.post("/search", data=own, files={"picture": shop.pictures["style-07"]}).json()
    assert same["results"][0]["key"] == "style-07"


def test_a_publication_fails_no_request(shop: ServedShop) -> None:
    ended = threading.Event()
    seen: list[tuple[int, str]] = []

    def go_on() -> None:
        while not ended.is_set():
            for answer in (
                shop.get("/similar/style-09?attributes=skirt_length&include_absent=true&k=200"),
                shop.post("/search", data=ONE, files={"picture": shop.pictures["style-05"]}),
                shop.get("/pictures/style-09"),
            ):
                is_search = answer.headers["content-type"] == "application/json"
                seen.append((answer.status_code, answer.json()["snapshot"] if is_search else ""))
                if is_search and answer.json()["query"]["key"]:
                    keys = {result["key"] for result in answer.json()["results"]}
                    assert ("style-00" in keys) == (answer.json()["snapshot"] == shop.snapshots[0])

    callers = [threading.Thread(target=go_on) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for snapshot in (*reversed(shop.snapshots), *reversed(shop.snapshots)):
            before = num_loads(shop)
            shop.publish(snapshot)
            wait_until(f"snapshot {snapshot}", lambda before=before: num_loads(shop) == before + REPLICAS)
            assert shop.is_served(snapshot)
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert {code for code, _ in seen} == {200}
    assert {snapshot for _, snapshot in seen} == {"", *shop.snapshots}


def test_what_cannot_be_loaded_leaves_the_old_snapshot_answering(shop: ServedShop) -> None:
    current = shop.lake.store.read("CURRENT.json")
    shop.lake.store.compare_and_swap("CURRENT.json", b"{}", current.version)
    try:
        wait_until("failed looks", lambda: figure(shop, "agman_serve_snapshot_failures_total") > REPLICAS)
        assert shop.is_served(shop.snapshots[0])
        assert shop.get("/similar/style-09?attributes=skirt_length").status_code == 200
    finally:
        broken = shop.lake.store.read("CURRENT.json")
        shop.lake.store.compare_and_swap("CURRENT.json", current.body, broken.version)
