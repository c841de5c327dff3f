"""The service as its callers meet it: every route, every refusal, any request, its documents and its job."""

import io
import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import requests
import schemathesis
from called_jobs import call
from command_lines import commands_in
from documents import blocks
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from served_shop import BRANDS, KEYS, PIXELS, TOKEN, UPLOAD_BYTES, ServedShop

from agman.taxonomy import FASHIONAI
from benchmarks import serve
from pipelines.lake import Lake
from pipelines.search import open_searcher
from pipelines.serving import answers

pytestmark = pytest.mark.integration

CHECKS = [
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
]
FUZZED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
ONE = {"attributes": '{"neckline_design": 1}'}
SLASHES = "women/dresses/A 17"


@pytest.fixture
def shop(served_catalog: ServedShop) -> ServedShop:
    return served_catalog


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(written, "JPEG", quality=30)
    return written.getvalue()


def refusal(answer: requests.Response, code: int) -> dict[str, str]:
    """Return what a refusal says, which has one shape and names no place of this machine."""
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert set(said) == {"error"}
    assert set(said["error"]) == {"what", "where", "expected", "found", "do"}
    assert said["error"]["what"]
    assert "/tmp" not in answer.text
    return said["error"]


class TestState:
    def test_health_is_open_and_names_the_snapshot(self, shop: ServedShop) -> None:
        found = shop.get("/healthz", token="")
        assert found.json() == {"status": "ok", "snapshot": shop.snapshots[0]}

    def test_the_snapshot(self, shop: ServedShop) -> None:
        found = shop.get("/snapshots/current").json()
        with open_searcher(shop.lake) as searcher:
            assert found == {
                "snapshot": shop.snapshots[0],
                "model": searcher.manifest.model,
                "published_at": found["published_at"],
                "num_products": len(KEYS),
                "attributes": 8,
            }
        assert found["published_at"].startswith("20")

    def test_attributes_and_columns(self, shop: ServedShop) -> None:
        found = shop.get("/attributes").json()
        assert found["attributes"] == [{"name": a.name, "values": list(a.values)} for a in FASHIONAI]
        columns = {column.pop("name"): column for column in found["columns"]}
        assert list(columns) == ["sku", "brand", "price", "in_stock", "added", "style"]
        assert columns["brand"] == {"type": "string", "values": list(BRANDS), "num_values": 3}
        assert columns["price"] == {"type": "number", "min": 10.0, "max": 230.0}
        assert columns["in_stock"] == {"type": "boolean", "values": [False, True], "num_values": 2}
        assert columns["added"] == {"type": "date", "min": "2026-01-01", "max": "2026-01-24"}

    def test_metrics_are_read_by_prometheus(self, shop: ServedShop) -> None:
        def answered(found: str) -> float:
            families = {family.name: family for family in text_string_to_metric_families(found)}
            return sum(
                sample.value
                for sample in families["agman_serve_requests"].samples
                if sample.labels == {"route": "/pictures/{key:path}", "method": "GET", "status": "404"}
            )

        before = answered(shop.get("/metrics").text)
        refusal(shop.get("/pictures/unknown"), 404)
        assert answered(shop.get("/metrics").text) == before + 1

    def test_pages_load_nothing_from_elsewhere(self, shop: ServedShop) -> None:
        for path in ("/", "/docs"):
            found = shop.get(path, token="")
            assert found.status_code == 200
            assert "http://" not in found.text
            assert "https://" not in found.text
            assert found.headers["content-security-policy"].startswith("default-src 'self'")
        assert shop.get("/static-offline-docs/swagger-ui-bundle.js", token="").status_code == 200
        assert "/similar/{key}" in shop.get("/openapi.json", token="").json()["paths"]


class TestSearch:
    def test_a_key_finds_what_a_searcher_finds(self, shop: ServedShop) -> None:
        weights = {"neckline_design": 0.7, "sleeve_length": 0.3}
        form = {"key": SLASHES, "attributes": json.dumps(weights), "k": 5, "include_absent": True}
        found = shop.post("/search", data=form).json()
        with open_searcher(shop.lake) as searcher:
            row = searcher.row_of(SLASHES)
            pair = row["sha256"], searcher.row_of("style-19")["sha256"]  # pictures of one style
            hits = searcher.search(searcher.embedding_of(SLASHES), weights, 5, exclude=pair[:1])
        same = shop.post("/search", data=form | {"exclude_same_product": False}).json()
        assert same["results"][0]["key"] == SLASHES
        assert same["results"][0]["score"] == pytest.approx(1, abs=1e-3)
        assert [result["key"] for result in same["results"][1:]] == [hit.key for hit in hits[:4]]
        assert [result["score"] for result in same["results"][1:]] == pytest.approx(
            [hit.score for hit in hits[:4]], abs=1e-5
        )
        assert found["query"]["key"] == SLASHES
        assert found["query"]["columns"]["brand"] == BRANDS[20 % 3]
        assert "a//b" not in {result["key"] for result in found["results"]}  # of the same style

    def test_a_result_tells_all_that_a_page_shows(self, shop: ServedShop) -> None:
        found = shop.get("/similar/style-03", params={"attributes": "neckline_design", "k": 3}).json()
        assert set(found) == {"snapshot", "query", "num_left_out", "results"}
        assert found["snapshot"] == shop.snapshots[0]
        assert len(found["results"]) == 3
        first = found["results"][0]
        assert set(first) == {"key", "score", "scores", "predicted", "columns", "picture"}
        assert set(first["scores"]) == {"neckline_design"}
        assert set(first["predicted"]) == set(FASHIONAI.names)
        assert set(first["predicted"]["neckline_design"]) == {"value", "score", "applies"}
        assert any(said["value"] for said in first["predicted"].values())
        assert set(first["columns"]) == {"sku", "brand", "price", "in_stock", "added", "style"}
        assert shop.get(first["picture"]).status_code == 200

    def test_an_upload_finds_itself(self, shop: ServedShop) -> None:
        files = {"picture": ("query.jpg", shop.pictures["style-07"])}
        found = shop.post("/search", data=ONE | {"exclude_same_product": False}, files=files).json()
        assert found["query"]["key"] is None
        assert found["results"][0]["key"] == "style-07"
        assert found["results"][0]["score"] > 0.999
        without = shop.post("/search", data=ONE, files=files).json()
        assert "style-07" not in {result["key"] for result in without["results"]}

    def test_uploads_at_once_are_looked_at_together(self, shop: ServedShop) -> None:
        def batches(found: str) -> tuple[float, float]:
            families = {family.name: family for family in text_string_to_metric_families(found)}
            values = {sample.name: sample.value for sample in families["agman_serve_batch_pictures"].samples}
            name = "agman_serve_batch_pictures"
            return values[f"{name}_sum"], values[f"{name}_count"]

        before = batches(shop.get("/metrics").text)
        results: list[str] = []

        def upload(key: str) -> None:
            data = ONE | {"exclude_same_product": False, "k": 1}
            found = shop.post("/search", data=data, files={"picture": shop.pictures[key]})
            results.append(f"{key} {found.json()['results'][0]['key']}")

        for _ in range(5):
            run_at_once([lambda key=key: upload(key) for key in KEYS[:4]])
        after = batches(shop.get("/metrics").text)
        pictures, passes = (now - was for now, was in zip(after, before, strict=True))
        assert pictures == 20
        assert passes < 20
        assert sorted(results) == sorted(f"{key} {key}" for key in KEYS[:4] for _ in range(5))

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"brand": ["O'Neill"]}, lambda number: number % 3 == 2),
            (
                {"brand": ["Acme", "Bruma"], "price": {"max": 60}},
                lambda number: number % 3 < 2 and 0 < number < 7,
            ),
            ({"price": {"min": 200}, "in_stock": [True]}, lambda number: number >= 20 and number % 2 == 0),
            ({"added": {"min": "2026-01-20", "max": "2026-01-21"}}, lambda number: number in (19, 20)),
            ({"brand": ["nobody's"]}, lambda number: False),
            ({}, lambda number: True),
        ],
    )
    def test_filters(self, shop: ServedShop, filters: dict, expected) -> None:
        wanted = {key for number, key in enumerate(KEYS) if expected(number)}
        parameters = {"attributes": "skirt_length", "filters": json.dumps(filters), "k": 200}
        parameters |= {"include_absent": "true", "exclude_same_product": "false"}
        found = shop.get("/similar/style-05", params=parameters).json()
        assert {result["key"] for result in found["results"]} == wanted

    def test_the_list_of_products(self, shop: ServedShop) -> None:
        found = shop.get("/products", params={"limit": 3, "offset": 2}).json()
        assert found["total"] == len(KEYS)
        assert [product["key"] for product in found["products"]] == sorted(KEYS)[2:5]
        by_brand = shop.get("/products", params={"q": "o'nEILL", "limit": 200}).json()
        assert {product["key"] for product in by_brand["products"]} == set(KEYS[2::3])
        by_key = shop.get("/products", params={"q": "dresses/"}).json()
        assert [product["key"] for product in by_key["products"]] == [SLASHES]


class TestDocuments:
    @pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
    def test_the_commands_of_the_documents_answer_as_they_show(
        self, shop: ServedShop, tmp_path: Path
    ) -> None:
        (tmp_path / "query.jpg").write_bytes(shop.pictures["style-07"])
        # What the commands leave out: where this shop listens, and its token.
        (tmp_path / ".curlrc").write_text(
            f'connect-to = "127.0.0.1:8000:127.0.0.1:{shop.port}"\nnoproxy = "*"\n'
            f'header = "Authorization: Bearer {TOKEN}"\n'
        )
        commands = [words for block in of_serving("sh") for words in commands_in(block)]
        environment = {**os.environ, "CURL_HOME": str(tmp_path)}
        upload, similar = (
            json.loads(subprocess.check_output(words, cwd=tmp_path, env=environment)) for words in commands
        )
        shown = json.loads(of_serving("json")[0])
        for found in (shown, upload, similar):
            assert answers.SearchAnswer.model_validate(found, strict=True).model_dump() == found
            assert set(found["results"][0]["scores"]) == set(shown["results"][0]["scores"])
            assert set(found["results"][0]["columns"]) >= set(shown["results"][0]["columns"])
        assert [found["query"]["key"] for found in (shown, upload, similar)] == [None, None, "style-17"]
        for result in upload["results"]:
            assert result["columns"]["brand"] in ("Acme", "Bruma")
            assert 20 <= result["columns"]["price"] <= 80

    def test_a_refusal_is_the_one_of_the_documents(self, shop: ServedShop) -> None:
        shown = json.loads(of_serving("json")[1])
        found = shop.get(f"/similar/{shown['error']['found']}?attributes=skirt_length")
        assert refusal(found, 404) == shown["error"]


def of_serving(language: str) -> list[str]:
    return [block.text for block in blocks(language) if block.document == "docs/serving.md"]


class TestPictures:
    @pytest.mark.parametrize("key", KEYS[-5:])
    def test_a_picture_of_any_key(self, shop: ServedShop, key: str) -> None:
        listed = shop.get("/products", params={"limit": 200}).json()["products"]
        (address,) = [product["picture"] for product in listed if product["key"] == key]
        found = shop.get(address, params={"height": 40})
        assert found.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(found.content)) as image:
            assert image.size == (32, 40)

    def test_what_a_browser_has_is_not_sent_again(self, shop: ServedShop) -> None:
        first = shop.get("/pictures/style-01")
        tag = first.headers["etag"]
        assert "max-age" in first.headers["cache-control"]
        again = shop.get("/pictures/style-01", headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert shop.get("/pictures/style-01?height=99", headers={"If-None-Match": tag}).status_code == 200

    def test_where_the_network_looked(self, shop: ServedShop) -> None:
        name = {"attribute": "sleeve_length"}
        of_key = shop.get(f"/attention/{quote(SLASHES)}", params=name)
        of_upload = shop.post("/attention", data=name, files={"picture": shop.pictures[SLASHES]})
        for found in (of_key, of_upload):
            assert found.headers["content-type"] == "image/jpeg"
        assert of_key.content == of_upload.content
        other = shop.get(f"/attention/{quote(SLASHES)}", params={"attribute": "skirt_length"})
        assert other.content != of_key.content


class TestRefusals:
    @pytest.mark.parametrize(
        ("picture", "code"),
        [
            (b"%PDF-1.7 not a picture", 415),
            (b"", 415),
            (b"plain words", 415),
            (jpeg(100, 100)[:-200], 422),
            (jpeg(2000, PIXELS // 2000 + 1), 413),
            (b"\xff" * (UPLOAD_BYTES + 300_000), 413),
        ],
        ids=["pdf", "empty", "text", "cut", "pixels", "bytes"],
    )
    def test_uploads(self, shop: ServedShop, picture: bytes, code: int) -> None:
        for path, form in (("/search", ONE), ("/attention", {"attribute": "skirt_length"})):
            said = refusal(shop.post(path, data=form, files={"picture": ("a.jpg", picture)}), code)
            assert said["expected"]

    def test_an_endless_upload_is_not_read_to_its_end(self, shop: ServedShop) -> None:
        sent = Counter[str]()

        def blocks():
            yield b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
            for _ in range(2000):
                sent["blocks"] += 1
                yield b"x" * 65536

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        try:
            refusal(shop.post("/search", data=blocks(), headers=headers), 413)
        except requests.ConnectionError:
            pass  # it was cut off while it still sent
        assert sent["blocks"] < 1000

    @pytest.mark.parametrize(
        ("form", "code", "where"),
        [
            ({"attributes": "{neckline"}, 400, "attributes"),
            ({"attributes": "[" * 20_000}, 400, "attributes"),
            ({"attributes": "{}"}, 422, "attributes"),
            ({"attributes": '{"neckline_design": "much"}'}, 422, "attributes"),
            ({"attributes": '{"neckline_design": NaN}'}, 400, "attributes"),
            ({"attributes": '{"neckline_design": -1}'}, 422, "attributes"),
            ({"attributes": '{"neckline_design": 0}'}, 422, "attributes"),
            ({"attributes": '{"buttons": 1}'}, 422, "attributes"),
            ({"attributes": '{"\\ud800": 1}'}, 422, "attributes"),
            ({"key": "unknown"}, 404, "key"),
            ({"key": ""}, 400, "picture, key"),
            ({"k": "0"}, 422, "body.k"),
            ({"k": "201"}, 422, "body.k"),
            ({"filters": '{"colour": ["red"]}'}, 422, "filters"),
            ({"filters": '{"uri": ["x"]}'}, 422, "filters"),
            ({"filters": '{"price": ["cheap"]}'}, 422, "filters"),
            ({"filters": '{"price": {"below": 5}}'}, 422, "filters"),
            ({"filters": '{"brand": {"min": "A"}}'}, 422, "filters"),
            ({"filters": "[1]"}, 422, "filters"),
        ],
    )
    def test_forms(self, shop: ServedShop, form: dict[str, str], code: int, where: str) -> None:
        said = refusal(shop.post("/search", data={"key": "style-01"} | ONE | form), code)
        assert said["where"] == where

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/similar/unknown?attributes=skirt_length", 404),
            ("/similar/style-01?attributes=unknown", 422),
            ("/similar/style-01?attributes=skirt_length=x", 422),
            ("/similar/style-01?attributes=skirt_length&k=9999", 422),
            ("/similar/style-01?attributes=skirt_length&filters={", 400),
            ("/similar/style-01", 422),
            ("/attention/style-01?attribute=unknown", 422),
            ("/attention/unknown?attribute=skirt_length", 404),
            ("/pictures/unknown", 404),
            ("/pictures/style-01?height=100000", 422),
            ("/products?limit=-1", 422),
            ("/nothing", 404),
            ("/search", 405),
        ],
    )
    def test_addresses(self, shop: ServedShop, path: str, code: int) -> None:
        refusal(shop.get(path), code)

    @pytest.mark.parametrize("token", ["", "another", TOKEN + "x", "né"])
    def test_who_has_no_token(self, shop: ServedShop, token: str) -> None:
        for path in ("/attributes", "/products", "/pictures/style-01", "/metrics", "/snapshots/current"):
            answer = shop.get(path, token="", headers={"Authorization": f"Bearer {token}".encode()})
            refusal(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        refusal(shop.post("/search", token="", data=ONE | {"key": "style-01"}), 401)

    def test_too_many_at_once(self, shop: ServedShop) -> None:
        codes, bodies = Counter[int](), []

        def ask() -> None:
            answer = shop.post("/attention", data={"attribute": "skirt_length"}, files={"picture": picture})
            codes[answer.status_code] += 1
            if answer.status_code != 200:
                bodies.append(refusal(answer, 429))
                assert int(answer.headers["retry-after"]) >= 1

        picture = jpeg(1200, 1200)
        run_at_once([ask] * 40)
        assert set(codes) == {200, 429}
        assert codes[200] >= 12
        assert shop.get("/healthz").status_code == 200


def test_a_damaged_picture_is_refused_without_a_path(shop: ServedShop) -> None:
    with open_searcher(shop.lake) as searcher:
        row = searcher.row_of("style-11")
        tar = Path(shop.lake.url) / searcher.manifest.shards[row["shard"]][0].name
    whole = tar.read_bytes()
    tar.write_bytes(bytes(len(whole)))
    try:
        answer = shop.get("/pictures/style-11?height=77")
        assert refusal(answer, 503)["what"] == "The storage does not give what this needs."
        assert row["sha256"][:12] not in answer.text
    finally:
        tar.write_bytes(whole)
    assert shop.get("/pictures/style-11?height=77").status_code == 200


def test_no_request_breaks_the_service(shop: ServedShop) -> None:
    api = schemathesis.openapi.from_url(f"{shop.url}/openapi.json")
    asked = Counter[str]()

    def ask(case: schemathesis.Case) -> None:
        # Half of what is asked about a key is about one that there is.
        if "key" in case.path_parameters and len(str(case.query)) % 2:
            case.path_parameters["key"] = "style-01"
            case.query = {**case.query, "attributes": "skirt_length", "attribute": "skirt_length"}
        answer = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code < 500, case.as_curl_command()
        case.validate_response(answer, checks=CHECKS)
        asked[case.operation.path] += 1

    for operation in (found.ok() for found in api.get_all_operations()):
        takes_something = operation.path_parameters or operation.query or operation.body
        for mode in GenerationMode if takes_something else [GenerationMode.POSITIVE]:
            settings(FUZZED, max_examples=12 if takes_something else 1)(
                given(case=operation.as_strategy(generation_mode=mode))(ask)
            )()
    assert set(asked) == set(api.raw_schema["paths"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lake", "{folder}/nothing"], "nothing is published here"),
        (["--lake", "{lake}", "--port", "0"], "port: expected 1 to 65535"),
        (["--lake", "{lake}", "--replicas", "0"], "expected replicas of 1 or more"),
        (["--lake", "{lake}", "--port", "{port}"], "--port takes another one"),
    ],
)
def test_mistakes_are_one_line(shop: ServedShop, tmp_path, arguments: list[str], said: str) -> None:
    places = {"folder": tmp_path, "lake": shop.lake.url, "port": shop.url.rpartition(":")[2]}
    ended = call("serve.py", *(argument.format(**places) for argument in arguments))
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not Lake(str(tmp_path / "nothing")).store.size("CURRENT.json")


def run_at_once(calls) -> None:
    threads = [threading.Thread(target=each) for each in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_benchmark_climbs_until_it_is_refused_and_publishes_in_the_middle(shop: ServedShop) -> None:
    keys = ["style-03", "style-04"]
    target = serve.Target(
        shop.url,
        shop.lake,
        shop.snapshots,
        keys,
        [shop.pictures[key] for key in keys],
        {"Authorization": f"Bearer {TOKEN}"},
    )
    figures, floor, loads = serve.measure(target, serve.Options(seconds=0.5))
    # 4 are answered at a time and 8 wait.
    assert [load.callers for load in loads["key"]] == [1, 2, 4, 8, 16]
    assert figures["refused_share"] > 0
    assert figures["failed"] == figures["failed_during_publish"] == 0
    assert figures["requests_during_publish"] > 10
    assert {load.callers for load in loads["key, publishing"]} <= {1, 2, 4}
    assert 0 < figures["requests_s"] < floor["requests_s"]
    assert 0 < floor["p50_ms_alone"] < figures["p50_ms_alone"]
    assert figures["p50_ms"] <= figures["p99_ms"]
    assert figures["uploads_s"] > 0
