"""`ray up` has no dry run: the file is held to Ray's own schema, and what it asks of EC2 to botocore's."""

import copy
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def errors_of_ec2(node_config: dict[str, Any]) -> str:
    shape = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    asked = {**node_config, "MinCount": 1, "MaxCount": 1}
    return ParamValidator().validate(asked, shape).generate_report()


def test_ray_accepts_it(written: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(written)))


def test_ray_refuses_a_word_that_it_does_not_know(written: dict[str, Any]) -> None:
    broken = copy.deepcopy(written)
    broken["available_node_types"]["gpu"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("node", ["head", "cpu", "gpu"])
def test_ec2_accepts_what_is_asked_of_it(written: dict[str, Any], node: str) -> None:
    asked = written["available_node_types"][node]["node_config"]
    assert errors_of_ec2(asked) == ""
    assert "InstanceTyp" in errors_of_ec2({**asked, "InstanceTyp": "m6i.large"})


def test_it_grows_from_a_head_without_work(written: dict[str, Any]) -> None:
    nodes = written["available_node_types"]
    assert nodes[written["head_node_type"]]["resources"] == {"CPU": 0}
    assert [node["min_workers"] for name, node in nodes.items() if name != "head"] == [0, 0]
    assert nodes["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert sum(node.get("max_workers", 0) for node in nodes.values()) <= written["max_workers"]
    (start,) = (command for command in written["head_start_ray_commands"] if "ray start" in command)
    assert "--num-cpus=0" in start


def test_it_is_closed(written: dict[str, Any]) -> None:
    """The dashboard is on loopback, the token a file, rights the role's, and no key is mounted."""
    (start,) = (command for command in written["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start
    options = " ".join(written["docker"]["run_options"])
    assert "RAY_AUTH_MODE=token" in options
    folder = options.split("RAY_AUTH_TOKEN_PATH=")[1].split()[0].rsplit("/", 1)[0]
    assert list(written["file_mounts"]) == [folder]
    for node in written["available_node_types"].values():
        assert node["node_config"]["IamInstanceProfile"]["Name"]
        assert node["node_config"]["SecurityGroupIds"]  # else Ray makes one that is open to the world
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_objects_spill_to_the_disk_that_the_nodes_prepare(written: dict[str, Any]) -> None:
    commands = [*written["head_start_ray_commands"], *written["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("--object-spilling-directory=/mnt/nvme/spill" in start for start in starts)
    assert any("mkdir -p /mnt/nvme/spill" in command for command in written["initialization_commands"])
    assert "-v /mnt/nvme:/mnt/nvme" in written["docker"]["run_options"]
