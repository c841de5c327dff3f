"""Pictures of a catalog that lie in a bucket, behind storage that lies."""

import importlib
import os
import re
import uuid

import pytest
from faulty_proxy import ATTEMPTS, Fault, FaultyProxy, impatient_filesystem

from agman.errors import BadSample
from pipelines.errors import StorageUnavailable
from pipelines.sources import fetch
from pipelines.sources.allowed import allow

pytestmark = pytest.mark.integration

BODY = os.urandom(200_000)


@pytest.fixture
def picture(s3_server: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """The uri of `BODY`, which is read through the proxy."""
    uri = f"{s3_server}/{uuid.uuid4().hex[:8]}/a b.jpg"
    proxy.overwrite(f"/{uri.removeprefix('s3://')}", BODY)
    module = importlib.import_module("pipelines.sources.fetch")
    monkeypatch.setattr(module, "shared_filesystem", lambda: impatient_filesystem(proxy.url))
    return uri


def fetched(uri: str, **options: int) -> bytes:
    return fetch(uri, allow((), ["s3://"]), **options)


def test_a_passing_refusal_is_tried_again(picture: str, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("refuse", "HEAD", "a%20b.jpg", 1), Fault("refuse", "GET", "a%20b.jpg", 1)]
    assert fetched(picture) == BODY


def test_a_body_that_broke_off_once_is_asked_for_again(picture: str, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("truncate", "GET", "a%20b.jpg", 1)]
    assert fetched(picture) == BODY


@pytest.mark.parametrize(("kind", "tries"), [("refuse", 2 * ATTEMPTS), ("truncate", 2)])
def test_a_lasting_fault_counts_as_unavailable_after_the_tries_of_the_policy(
    picture: str, proxy: FaultyProxy, kind: str, tries: int
) -> None:
    proxy.faults = [Fault(kind, "GET", "a%20b.jpg")]
    with pytest.raises(StorageUnavailable, match=re.escape(picture)):
        fetched(picture)
    assert sum(request.startswith("GET") for request in proxy.requests) == tries


@pytest.mark.parametrize(("kind", "expected"), [("deny", "forbidden"), ("homeless", "missing")])
def test_a_refusal_is_the_pictures_own_trouble(
    picture: str, proxy: FaultyProxy, kind: str, expected: str
) -> None:
    proxy.faults = [Fault(kind, method, "a%20b.jpg") for method in ("HEAD", "GET")]
    with pytest.raises(BadSample) as caught:
        fetched(picture)
    assert caught.value.kind == expected


def test_an_object_that_grew_since_its_size_was_told_is_not_read_whole(
    picture: str, proxy: FaultyProxy
) -> None:
    path = f"/{picture.removeprefix('s3://')}"
    proxy.before_reply = lambda: proxy.overwrite(path, BODY * 20)
    with pytest.raises(BadSample, match=f"{len(BODY) + 1} bytes") as caught:
        fetched(picture, max_bytes=len(BODY))
    assert caught.value.kind == "too_large"


def test_no_bytes_are_no_error(picture: str, proxy: FaultyProxy) -> None:
    proxy.overwrite(f"/{picture.removeprefix('s3://')}", b"")
    assert fetched(picture) == b""
