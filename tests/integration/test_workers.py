"""Workers on a real Ray: some are lost, some wait for a machine, some are killed by what they are given."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StorageUnavailable, WorkersLost
from pipelines.lake import Lake, receipt
from pipelines.scheduling import Receipt, Unit, run_units

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


def units(count: int) -> list[Unit]:
    return [Unit(stage="made/shop", name=f"unit-{number}", num_images=3) for number in range(count)]


class Worker:
    """Does nothing, or dies: always at one unit, once at another, once while it loads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> None:
        if self._first("load-fails"):
            raise StorageUnavailable("the lake does not answer")
        if self._first("load-dies"):
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self, unit: Unit, prepared: str = "") -> Receipt:
        if unit.name == (self.folder / "killer").read_text():
            os.kill(os.getpid(), signal.SIGKILL)
        if self._first(unit.name):
            os.kill(os.getpid(), signal.SIGKILL)
        return Receipt(unit=unit.name, files=(), detail={"pid": os.getpid(), "prepared": prepared})

    def _first(self, what: str) -> bool:
        """Tell whether something is asked for that was not done yet."""
        try:
            (self.folder / f"once-{what}").unlink()
        except FileNotFoundError:  # another worker was the first
            return False
        return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "killer").write_text("none")
    return tmp_path


def start(folder: Path, **options: Any) -> Callable[[], Any]:
    import ray

    actor = ray.remote(Worker).options(num_cpus=0.5, max_restarts=-1, max_task_retries=0, **options)
    return lambda: actor.remote(folder)


def names(lake: Lake) -> list[str]:
    return sorted(lake.store.list_names("receipts/made"))


@pytest.mark.parametrize("what", ["unit-3", "load-dies", "load-fails"])
def test_what_a_lost_actor_had_is_done_all_the_same(lake: Lake, folder: Path, what: str) -> None:
    from pipelines.actors import ActorWorkers

    (folder / f"once-{what}").touch()
    done = list(run_units(lake, units(12), ActorWorkers(start(folder), 2)))
    assert sorted(unit.name for unit, *_ in done) == sorted(unit.name for unit in units(12))
    assert names(lake) == sorted(receipt(unit.stage, unit.name) for unit in units(12))
    assert not (folder / f"once-{what}").exists()


def test_a_unit_that_kills_each_worker_is_named(lake: Lake, folder: Path) -> None:
    from pipelines.actors import ActorWorkers

    (folder / "killer").write_text("unit-2")
    with pytest.raises(
        WorkersLost, match=r"^made/shop/unit-2: 5 workers died of this unit of 3 pictures, last "
    ):
        list(run_units(lake, units(12), ActorWorkers(start(folder), 2)))
    assert receipt("made/shop", "unit-2") not in names(lake)


def test_a_task_that_kills_each_worker_is_named(lake: Lake) -> None:
    from pipelines.workers import TaskWorkers

    def work(unit: Unit) -> Receipt:
        if unit.name == "unit-1":
            os.kill(os.getpid(), signal.SIGKILL)
        return Receipt(unit=unit.name, files=())

    with pytest.raises(
        WorkersLost, match=r"^made/shop/unit-1: 5 workers died of this unit of 3 pictures, last "
    ):
        list(run_units(lake, units(4), TaskWorkers(work)))


def test_actors_without_a_machine_hold_nothing_up_and_are_told_of(lake: Lake, folder: Path) -> None:
    from pipelines.actors import ActorWorkers

    kinds = iter([start(folder), start(folder, num_gpus=1)])
    workers = ActorWorkers(lambda: next(kinds)(), 2, asked="half a CPU")
    done = list(run_units(lake, units(6), workers))
    assert len({made.detail["pid"] for _, made, _ in done}) == 1
    assert workers.asked() == "2 workers of half a CPU, 1 of them ready"


def test_a_wait_without_end_says_what_for(lake: Lake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.actors import ActorWorkers

    class Enough(Exception):
        pass

    said = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            raise Enough

    monkeypatch.setattr("pipelines.scheduling.SILENT_S", 0.5)
    workers = ActorWorkers(start(folder, num_gpus=1), 3, asked="4 CPUs and a GPU")
    with pytest.raises(Enough):
        list(run_units(lake, units(6), workers, say))
    assert "asked for 3 workers of 4 CPUs and a GPU, 0 of them ready; the cluster has 2 CPUs (" in said[0]
    assert said[0].endswith("0 GPUs (0 free)")


def test_what_is_prepared_travels_to_the_actor(lake: Lake, folder: Path) -> None:
    import ray

    from pipelines.actors import ActorWorkers

    task = ray.remote(lambda unit: f"of {unit.name}").options(num_cpus=0.5)
    (folder / "once-unit-3").touch()
    workers = ActorWorkers(start(folder), 1, prepare=lambda unit: task.remote(unit), num_prepared=3)
    ahead = []
    for unit, made, _ in run_units(lake, units(12), workers):
        assert made.detail["prepared"] == f"of {unit.name}"
        ahead.append(workers.num_running)
    assert max(ahead) <= 3 + 2
    assert len(names(lake)) == 12


def test_what_goes_wrong_in_preparing_is_said_as_it_is(lake: Lake, folder: Path) -> None:
    import ray

    from pipelines.actors import ActorWorkers
    from pipelines.errors import CorruptShard

    def prepare(unit: Unit) -> str:
        if unit.name == "unit-2":
            raise CorruptShard("a flipped bit", "shards/shop/a.tar")
        return ""

    task = ray.remote(prepare).options(num_cpus=0.5)
    workers = ActorWorkers(start(folder), 1, prepare=lambda unit: task.remote(unit), num_prepared=3)
    with pytest.raises(CorruptShard, match=r"^made/shop/unit-2: a flipped bit$") as caught:
        list(run_units(lake, units(4), workers))
    assert caught.value.name == "shards/shop/a.tar"
