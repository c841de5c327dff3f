"""Every manifest against the schema of its kind, unknown words refused; its commands against the jobs."""

import copy
import gzip
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from command_lines import config_of

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "infra" / "kubernetes"
KUBERNETES = "1.33"
Manifest = dict[str, Any]


def manifests() -> Iterator[Manifest]:
    for path in sorted(FOLDER.rglob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def name_of(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return f"{manifest['kind']}/{metadata.get('name') or metadata['generateName']}"


ALL = {name_of(manifest): manifest for manifest in manifests()}


@cache
def validator_of(kind: str) -> jsonschema.Draft202012Validator:
    """Hold KubeRay's kinds to their schema and to its words; the API server would drop others in silence."""
    path = Path(__file__).parent / "schemas" / f"{kind}.v1.schema.json.gz"
    return jsonschema.Draft202012Validator(strict(json.loads(gzip.decompress(path.read_bytes()))))


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def check(manifest: Manifest) -> None:
    if manifest["apiVersion"] == "ray.io/v1":
        validator_of(manifest["kind"]).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod's spec inside a manifest."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for each in value.values():
            yield from pods(each)
    elif isinstance(value, list):
        for each in value:
            yield from pods(each)


@pytest.mark.parametrize("name", ALL)
def test_a_manifest_fits_its_schema(name: str) -> None:
    check(ALL[name])


def mistyped_replicas(manifest: Manifest) -> None:
    manifest["spec"]["workerGroupSpecs"][0]["minReplica"] = 0


def number_as_text(manifest: Manifest) -> None:
    manifest["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "8"


def mistyped_container(manifest: Manifest) -> None:
    next(pods(manifest))["containers"][0]["imagePullpolicy"] = "Always"


def number_of_retries_as_text(manifest: Manifest) -> None:
    manifest["spec"]["jobTemplate"]["spec"]["backoffLimit"] = "0"


@pytest.mark.parametrize(
    ("name", "breaks"),
    [
        ("RayCluster/agman", mistyped_replicas),
        ("RayCluster/agman", number_as_text),
        ("RayCluster/agman", mistyped_container),
        ("RayJob/train-", mistyped_container),
        ("CronJob/nightly", mistyped_container),
        ("CronJob/nightly", number_of_retries_as_text),
    ],
)
def test_a_broken_one_is_refused(name: str, breaks: Callable[[Manifest], None]) -> None:
    broken = copy.deepcopy(ALL[name])
    breaks(broken)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(broken)


@pytest.mark.parametrize("name", ALL)
def test_every_pod_is_confined_and_of_this_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod in pods(ALL[name]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert re.search(rf"/agman:{re.escape(version)}-(cpu|cuda)$", container["image"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", ["RayCluster/agman", "RayJob/train-"])
def test_a_cluster_has_a_token_an_idle_head_and_the_tested_ray(name: str) -> None:
    spec = ALL[name]["spec"].get("rayClusterSpec", ALL[name]["spec"])
    assert spec["authOptions"] == {"mode": "token", "secretName": "agman-ray-token"}
    assert f"ray=={spec['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    if name == "RayCluster/agman":
        assert spec["enableInTreeAutoscaling"] is True
        assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0, 0]
    else:  # counts its GPUs as it starts: they are there by then
        assert all(group["minReplicas"] == group["maxReplicas"] > 0 for group in spec["workerGroupSpecs"])


@pytest.mark.parametrize("name", ["CronJob/nightly", "CronJob/clean-lake"])
def test_nothing_by_the_clock_runs_twice_at_once(name: str) -> None:
    assert ALL[name]["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_dashboard_is_closed_but_to_those_who_submit() -> None:
    assert ALL["NetworkPolicy/deny-ingress"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    rules = ALL["NetworkPolicy/ray-nodes"]["spec"]["ingress"]
    open_to = [
        rule for rule in rules if 8265 in [port["port"] for port in rule.get("ports", [{"port": 8265}])]
    ]
    labels = [sender.get("podSelector", {}).get("matchLabels") for rule in open_to for sender in rule["from"]]
    assert labels == [
        {"ray.io/is-ray-node": "yes"},
        {"app.kubernetes.io/component": "submit"},
        {"app.kubernetes.io/name": "kuberay-operator"},
    ]
    for name, path in (("CronJob/nightly", "jobTemplate"), ("RayJob/train-", "submitterPodTemplate")):
        metadata = (
            ALL[name]["spec"][path].get("spec", {}).get("template", ALL[name]["spec"][path])["metadata"]
        )
        assert metadata["labels"] == labels[1]


def test_no_manifest_carries_a_secret() -> None:
    def named(value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            if "name" in value and "value" in value:
                yield str(value["name"]), value["value"]
            for each in value.values():
                yield from named(each)
        elif isinstance(value, list):
            for each in value:
                yield from named(each)

    assert "Secret" not in {manifest["kind"] for manifest in ALL.values()}
    assert {name for name, _ in named(list(ALL.values()))} == {"RAY_AUTH_MODE"}


def command_lines() -> Iterator[list[str]]:
    """Yield the words of each job that a manifest starts, from its module on."""
    for manifest in ALL.values():
        words = shlex.split(manifest["spec"].get("entrypoint", "")) if "spec" in manifest else []
        for pod in pods(manifest):
            for container in pod["containers"]:
                words = words or [*container.get("command", []), *container.get("args", [])]
        if "-m" in words:
            yield words[words.index("-m") + 1 :]


@pytest.mark.parametrize("words", list(command_lines()), ids=lambda words: words[0])
def test_a_job_accepts_its_command_line(words: list[str]) -> None:
    assert config_of(words).lake == "s3://shop-data/lake"


def test_all_jobs_of_the_manifests_are_looked_at() -> None:
    assert sorted(words[0] for words in command_lines()) == ["jobs.clean_lake", "jobs.nightly", "jobs.train"]


def test_a_wrong_command_line_would_be_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config_of(["jobs.nightly", "--lake=s3://shop-data/lake", "--max-minute=480"])
    assert "--max-minutes" in capsys.readouterr().err
