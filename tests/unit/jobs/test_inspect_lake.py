"""What a person reads about a lake, and about a rollback."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from called_jobs import call
from made_up_snapshots import Shop
from PIL import Image

from pipelines.lake import CURRENT, DIGEST_LETTERS, Lake, snapshot_file
from pipelines.models import publish_model
from pipelines.storage.snapshots import Manifest, read_pointer

INSPECT, ROLLBACK = "inspect_lake.py", "rollback.py"
Start = Callable[..., tuple[int, str, str]]


def draw(path: Path, seed: int) -> bytes:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path, "PNG")
    return path.read_bytes()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


@pytest.fixture
def nights(shop: Shop, tiny_model: Path, tmp_path: Path) -> list[Manifest]:
    model = json.loads((tiny_model / "config.json").read_text())["digest"][:DIGEST_LETTERS]
    publish_model(shop.lake, tiny_model, model)
    bad = {
        "key": "torn",
        "uri": "torn.jpg",
        "stage": "shards",
        "kind": "truncated",
        "message": "ends [early]",
    }
    pictures = [draw(tmp_path / f"{number}.png", number) for number in range(3)]
    one = shop.night("night-one", {"a": pictures[0], "b": pictures[1]}, model=model)
    return [
        one,
        shop.night(
            "night-two", {"a": pictures[0], "b": pictures[2]}, parent=one, model=model, quarantine=[bad]
        ),
    ]


@pytest.fixture
def start(lake: Lake) -> Start:
    """Call a job; returns exit code, output, errors, each with plain blanks."""

    def started(job: str, *arguments: str) -> tuple[int, str, str]:
        ended = call(job, *arguments, "--lake", lake.url)
        return ended.returncode, " ".join(ended.stdout.split()), " ".join(ended.stderr.split())

    return started


def test_the_list_marks_what_serves(start: Start, shop: Shop, nights: list[Manifest], tmp_path: Path) -> None:
    shop.night(
        "refused", {"a": draw(tmp_path / "new.png", 9)}, parent=nights[1], model=nights[1].model,
        is_published=False, gates=[{"name": "recall@10 [x]", "passed": False, "found": 0.1}],
    )  # fmt: skip
    code, out, _ = start(INSPECT)
    assert code == 0
    listed, _, apart = out.partition("apart:")
    assert listed.index("night-two") < listed.index("current") < listed.index("night-one")
    assert "served before" in listed
    assert "refused: recall@10 [x]" in apart
    assert not (Path(shop.lake.url) / "runs").exists()


def test_a_difference_is_shown_by_key_and_by_value(start: Start, nights: list[Manifest]) -> None:
    code, out, _ = start(INSPECT, "--diff", "previous", "current")
    assert code == 0
    assert "│ bytes changed │ 1 │ b │" in out
    assert "│ unchanged │ 1 │ a │" in out
    assert "│ counts.quarantined │ 0 │ 1 │" in out


def test_a_key_is_followed_to_the_tar(start: Start, nights: list[Manifest]) -> None:
    code, out, _ = start(INSPECT, "--key", "a")
    assert code == 0
    assert "since snapshot │ night-one, night 1 │" in out
    assert next(iter(nights[0].shards.values()))[0].name in out
    assert nights[0].parts[0].files["skirt_length"].name in out
    assert "read 1.50 s, write 0.25 s" in out


def test_a_key_in_quarantine_is_answered_with_the_reason(start: Start, nights: list[Manifest]) -> None:
    code, out, _ = start(INSPECT, "--key", "torn")
    assert code == 0
    assert "torn is in quarantine in snapshot night-two" in out
    assert "ends [early]" in out
    code, _, err = start(INSPECT, "--key", "torn", "--snapshot", "night-one")
    assert (code, "neither in the catalog nor in the quarantine" in err) == (2, True)


def test_a_whole_lake_verifies(start: Start, nights: list[Manifest]) -> None:
    code, out, err = start(INSPECT, "--verify")
    assert (code, err) == (0, "")
    assert "night-two: 16 files" in out
    assert "1 before it" in out
    assert out.endswith("all are as they were published")


def test_each_damaged_file_is_named_with_what_makes_it_good(
    start: Start, shop: Shop, nights: list[Manifest]
) -> None:
    tar, part = (
        nights[1].shards[nights[1].parts[0].shard][0].name,
        nights[1].parts[1].files["skirt_length"].name,
    )
    parent = snapshot_file("night-one", "manifest.json")
    shop.damage(tar)
    shop.lake.store.delete(part)
    shop.damage(parent)
    code, out, err = start(INSPECT, "--verify")
    assert code == 1
    assert f"{tar}: expected " in out
    assert f"{part}: expected " in out
    assert f"{parent}: expected sha256" in out
    assert out.count("the next jobs/nightly.py --verify-lake makes it again") == 2
    assert "3 damaged or missing" in err
    code, out, _ = start(INSPECT, "--verify", "--snapshot", "night-one")
    assert code == 1  # its own manifest


def test_a_changed_manifest_is_named_before_anything_is_believed(
    start: Start, shop: Shop, nights: list[Manifest]
) -> None:
    name = snapshot_file("night-two", "manifest.json")
    shop.damage(name)
    for question in (["--verify"], ["--key", "a"], ["--diff", "previous", "current"]):
        code, out, err = start(INSPECT, *question)
        assert (code, out) == (1, "")
        assert name in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--diff", "one"], "expected two snapshots, found 1"),
        (["--key", "a", "--verify"], "expected one of --diff, --key and --verify"),
        ([], "has no snapshots; is the path right?"),
        (["--verify"], "has no current snapshot"),
    ],
)
def test_a_mistake_is_one_line(start: Start, arguments: list[str], said: str) -> None:
    code, out, err = start(INSPECT, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_rollback_says_what_it_did_and_keeps_who_and_why(
    start: Start, nights: list[Manifest], lake: Lake
) -> None:
    code, out, _ = start(ROLLBACK, "--why", "wrong prices")
    assert code == 0
    assert out.startswith("snapshot night-one, night 1, serves")
    assert "to undo this: jobs/rollback.py" in out
    (report,) = (name for name in lake.store.list_names("runs") if name.endswith("report.json"))
    kept = json.loads(lake.store.read(report).body)["rollback"]
    assert {**kept, "who": ""} == {"from": "night-two", "to": "night-one", "who": "", "why": "wrong prices"}
    assert kept["who"]
    code, out, _ = start(INSPECT)
    assert "night-two │" in out.partition("apart:")[2]


def test_a_lake_without_a_readable_pointer_is_put_right(
    start: Start, nights: list[Manifest], lake: Lake
) -> None:
    (Path(lake.url) / CURRENT).write_bytes(b"half a poi")
    code, out, _ = start(INSPECT)
    assert (code, "jobs/rollback.py SNAPSHOT" in out) == (0, True)
    code, _, err = start(ROLLBACK)
    assert (code, CURRENT in err) == (1, True)
    code, out, _ = start(ROLLBACK, "night-two")
    assert (code, "could not be read" in out) == (0, True)
    assert read_pointer(lake).snapshot == "night-two"
