"""The bucket's rules: in the form that AWS takes, and neither less nor much more than the code calls."""

import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from iam import Call, is_allowed

from pipelines.retention import GOVERNED

FOLDER = Path(__file__).parents[3] / "infra" / "s3"
POLICIES = ("policy.json", "policy-clean.json", "policy-read.json", "bucket-policy.json")
STATEMENT = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
ACTIONS = {
    "s3:*", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload",
}  # fmt: skip
CONDITIONS = {"StringLikeIfExists", "Bool", "Null"}


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_has_the_form_of_one(name: str) -> None:
    policy = read(name)
    assert set(policy) == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert len(set(sids)) == len(sids)
    for statement in policy["Statement"]:
        assert set(statement) <= STATEMENT
        assert statement["Sid"].isalnum()
        assert ("Principal" in statement) == (name == "bucket-policy.json")
        assert statement["Effect"] == ("Deny" if name == "bucket-policy.json" else "Allow")
        assert set(as_list(statement["Action"])) <= ACTIONS
        assert all(resource.startswith("arn:aws:s3:::shop-") for resource in as_list(statement["Resource"]))
        assert set(statement.get("Condition", {})) <= CONDITIONS
    assert len(json.dumps(policy)) < 6144  # what a managed policy may have


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def lake(action: str, name: str, **context: str) -> Call:
    return Call(f"s3:{action}", f"arn:aws:s3:::shop-data/lake/{name}", context)


WRITER, CLEANER, READER = read("policy.json"), read("policy-clean.json"), read("policy-read.json")
BUCKET = read("bucket-policy.json")


def test_nobody_deletes_what_a_snapshot_is_but_the_clean_up() -> None:
    for name in (
        "snapshots/a/manifest.json",
        "models/m/weights.safetensors",
        "CURRENT.json",
        "pins/a/b.json",
    ):
        assert not is_allowed(lake("DeleteObject", name), WRITER)
    assert all(is_allowed(lake("DeleteObject", f"{folder}/a"), CLEANER) for folder in GOVERNED)
    for name in ("models/m/weights.safetensors", "CURRENT.json", "pins/a/b.json", "runs/a/report.json"):
        assert not is_allowed(lake("DeleteObject", name), CLEANER)
    assert not is_allowed(lake("PutObject", "CURRENT.json"), CLEANER)


def test_a_reader_changes_nothing() -> None:
    assert is_allowed(lake("GetObject", "snapshots/a/catalog.parquet"), READER)
    assert {action for statement in READER["Statement"] for action in as_list(statement["Action"])} == {
        "s3:GetObject",
        "s3:ListBucket",
    }


def test_what_is_not_there_is_told_from_what_is_forbidden() -> None:
    """S3 answers 404 to those alone who may list, and asks for that right without a prefix."""
    listing = Call("s3:ListBucket", "arn:aws:s3:::shop-data", {})
    for policy in (WRITER, CLEANER, READER):
        assert is_allowed(listing, policy)
        assert not is_allowed(Call("s3:ListBucket", "arn:aws:s3:::shop-data", {"s3:prefix": "hr/"}), policy)


def test_nothing_is_overwritten_even_by_who_may_write() -> None:
    def put(name: str, **context: str) -> bool:
        secure = {"aws:SecureTransport": "true", "s3:ObjectCreationOperation": "true"}
        return is_allowed(lake("PutObject", name, **secure, **context), WRITER, BUCKET)

    assert put("shards/catalog/a.tar", **{"s3:if-none-match": "*"})
    assert not put("shards/catalog/a.tar")
    assert put("CURRENT.json", **{"s3:if-none-match": "*"})
    assert put("CURRENT.json", **{"s3:if-match": "etag"})
    assert not put("CURRENT.json")
    assert put("runs/train-1/checkpoint/state-0.pt")  # Ray Train's, without conditions


def test_without_encryption_nothing_is_answered() -> None:
    reading = lake("GetObject", "CURRENT.json", **{"aws:SecureTransport": "false"})
    assert not is_allowed(reading, READER, BUCKET)


def test_the_lifecycle_is_one_that_s3_takes() -> None:
    shape = botocore.session.Session().get_service_model("s3")
    operation = shape.operation_model("PutBucketLifecycleConfiguration").input_shape
    written = {"Bucket": "shop-data", "LifecycleConfiguration": read("lifecycle.json")}
    assert ParamValidator().validate(written, operation).generate_report() == ""
    written["LifecycleConfiguration"]["Rules"][0]["Prefixx"] = ""
    assert "Prefixx" in ParamValidator().validate(written, operation).generate_report()


def test_time_alone_removes_no_more_than_runs_and_probes() -> None:
    """Everything else is the clean-up's, which knows what is needed."""
    expiring = [rule for rule in read("lifecycle.json")["Rules"] if "Days" in rule.get("Expiration", {})]
    assert {rule["Filter"]["Prefix"] for rule in expiring} == {"lake/runs/", "lake/probes/"}
    assert all(rule["Status"] == "Enabled" for rule in read("lifecycle.json")["Rules"])
