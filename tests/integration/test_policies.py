"""The rights of infra/s3 are enough: what jobs really ask S3 for, request by request, is held to them."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.client import AioBaseClient
from iam import Call, Policy, is_allowed

from pipelines import retention
from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import Until, run_night
from pipelines.rollback import roll_back
from pipelines.search import open_searcher
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import Manifest, current_manifest
from pipelines.telemetry import run as run_job

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[2] / "infra" / "s3"
ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}
BUCKET = "arn:aws:s3:::shop-data"


def policy(name: str) -> Policy:
    return json.loads((FOLDER / name).read_text())


WRITER, CLEANER, READER = policy("policy.json"), policy("policy-clean.json"), policy("policy-read.json")
IN_FORCE = policy("bucket-policy.json")


class Asked:
    """The requests that were made of S3, as AWS would judge them were this lake at s3://shop-data/lake."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self._monkeypatch = monkeypatch

    @contextmanager
    def of(self, lake: Lake) -> Iterator["Asked"]:
        root = lake.url.removeprefix("s3://").split("/", 1)[1]
        send = AioBaseClient._make_api_call

        async def noted(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
            self.calls.append(as_judged(operation, arguments, root))
            return await send(client, operation, arguments)

        with self._monkeypatch.context() as patch:
            patch.setattr(AioBaseClient, "_make_api_call", noted)
            yield self

    def refused(self, *policies: Policy) -> list[Call]:
        return [call for call in self.calls if not is_allowed(call, *policies, IN_FORCE)]


def as_judged(operation: str, arguments: dict[str, Any], root: str) -> Call:
    """Turn a request into the action, the resource and the condition keys that AWS makes of it."""
    context = {"aws:SecureTransport": "true"}
    if operation == "ListObjectsV2":
        return Call(ACTIONS[operation], BUCKET, {**context, "s3:prefix": moved(arguments["Prefix"], root)})
    if ACTIONS[operation] == "s3:PutObject":
        # The two that make an object count; an upload's beginning and its parts cannot be conditional.
        makes = operation in ("PutObject", "CompleteMultipartUpload")
        context["s3:ObjectCreationOperation"] = str(makes).lower()
        context |= {"s3:if-none-match": "*"} if "IfNoneMatch" in arguments else {}
        context |= {"s3:if-match": "etag"} if "IfMatch" in arguments else {}
    return Call(ACTIONS[operation], f"{BUCKET}/{moved(arguments['Key'], root)}", context)


def moved(name: str, root: str) -> str:
    assert name.startswith(root), name
    return f"lake{name.removeprefix(root)}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def lake(s3_server: str) -> Lake:
    return Lake(f"{s3_server}/{uuid.uuid4().hex[:8]}/lake")


def night(lake: Lake, model: Path, number: int, until: Until = "publish") -> Manifest | None:
    config = NightConfig(
        lake=lake.url,
        source=f"generated:num_images=12,seed=1,size=48,night={number}",
        model=str(model),
        shards=ShardOptions(images_per_shard=6),
        embed=EmbedOptions(num_workers=1),
    )
    with run_job("nightly", config, lake) as run:
        return run_night(config, run, until)


def test_a_writer_runs_nights_and_makes_good_and_rolls_back(
    lake: Lake, other_taxonomy_model: Path, asked: Asked, within_process: None
) -> None:
    with asked.of(lake):
        night(lake, other_taxonomy_model, 1, until="embeddings")
    lake.store.delete(next(lake.store.list_names("embeddings")))  # its receipt no longer holds
    with asked.of(lake):
        assert night(lake, other_taxonomy_model, 1) is not None
        assert night(lake, other_taxonomy_model, 2) is not None
        roll_back(lake)
    forgotten = [call for call in asked.calls if call.action == "s3:DeleteObject"]
    assert {call.resource.split("/")[2] for call in forgotten} == {"probes", "embeddings", "receipts"}
    assert asked.refused(WRITER) == []
    assert asked.refused(READER) != []


@pytest.mark.parametrize("folder", ["shards/shop", "models/m", "embeddings/m", "indexes/m", "snapshots/s"])
def test_a_writer_sends_large_files_and_gives_up_what_it_cannot_send(
    lake: Lake, asked: Asked, tmp_path: Path, folder: str
) -> None:
    file, name = tmp_path / "file.bin", f"{folder}/file.bin"
    file.write_bytes(b"one")
    with asked.of(lake):
        assert lake.store.upload_if_absent(file, name, in_parts=True)
        file.write_bytes(b"two")
        assert not lake.store.upload_if_absent(file, name, in_parts=True)
    assert {call.action for call in asked.calls} >= {"s3:PutObject", "s3:AbortMultipartUpload"}
    assert asked.refused(WRITER) == []
    unconditional = Call("s3:PutObject", f"{BUCKET}/lake/{name}", {"s3:ObjectCreationOperation": "true"})
    assert not is_allowed(unconditional, WRITER, IN_FORCE)


def test_a_reader_searches(
    lake: Lake, other_taxonomy_model: Path, asked: Asked, within_process: None
) -> None:
    night(lake, other_taxonomy_model, 1)
    with asked.of(lake), open_searcher(lake) as searcher:
        assert searcher.search(searcher.embedding_of("style-000001"), {"skirt_length": 1.0}, 3)
    assert asked.calls
    assert asked.refused(READER) == []


def test_the_clean_up_deletes(
    lake: Lake, other_taxonomy_model: Path, asked: Asked, within_process: None
) -> None:
    night(lake, other_taxonomy_model, 1)
    night(lake, other_taxonomy_model, 2, until="embeddings")  # nothing publishes it
    grace, now = timedelta(hours=1), datetime.now(UTC)
    with asked.of(lake):
        for step in range(4):
            later = now + step * 2 * grace
            retention.apply(lake, retention.plan(lake, keep_last=1, grace=grace, now=later))
    deleted = {call.resource.split("/")[2] for call in asked.calls if call.action == "s3:DeleteObject"}
    assert deleted == {"shards", "embeddings", "receipts", "retention"}
    assert asked.refused(CLEANER) == []
    assert asked.refused(WRITER) != []
    current_manifest(lake)
