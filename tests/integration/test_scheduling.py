"""Tasks without receipts: taken as they finish, and freed once they are dropped."""

import os
import select
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


def test_a_slow_task_holds_nothing_up(tmp_path: Path) -> None:
    import ray

    from pipelines.scheduling import Ref, result_of, run_tasks

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    @ray.remote
    def work(item: int) -> int:
        if item == 0:  # ends after the last one has begun, which must not wait for it
            waiting = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            assert select.select([waiting], [], [], 60)[0]
        elif item == 3:
            with pipe.open("wb") as stream:
                stream.write(b".")
        return 10 * item

    def submit(item: int) -> list[Ref]:
        return [work.remote(item)]

    found = [(item, result_of(ref)) for item, (ref,) in run_tasks(submit, range(4), window=2)]
    assert sorted(found) == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert [item for item, _ in found].index(0) >= 2
