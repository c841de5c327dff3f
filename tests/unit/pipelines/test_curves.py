import pytest

from pipelines.lake import Lake
from pipelines.training.curves import VALIDATION, Curves, read_curves


def figures(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "loss": 1 / step, "images": 8.0 * step, "worked_s": 2.0, "waited_s": 0.5, **more}


def test_what_was_written_is_read_again(lake: Lake) -> None:
    curves = Curves(lake, "one")
    for step in (1, 2, 3, 4):
        curves.add(figures(step, **({VALIDATION: step / 10} if step % 2 == 0 else {})))
    found = read_curves(lake, "one")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4]
    assert found["train/loss"][1][1] == 0.5
    assert [(step, round(value, 6)) for step, value in found["valid/score"]] == [(2, 0.2), (4, 0.4)]
    assert read_curves(lake, "another") == {}


def test_steps_that_a_crash_undid_are_not_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for now, loss, steps in ((100, 5.0, (1, 2)), (200, 7.0, (2, 3))):
        monkeypatch.setattr("time.time", lambda now=now: now)
        curves = Curves(lake, "one")
        for step in steps:
            curves.add(figures(step, **{VALIDATION: loss}))
    assert read_curves(lake, "one")["valid/score"] == [(1, 5.0), (2, 7.0), (3, 7.0)]


def test_a_file_is_read_up_to_what_is_damaged(lake: Lake) -> None:
    curves = Curves(lake, "one")
    curves.add(figures(1, **{VALIDATION: 0.5}))
    (name,) = lake.store.list_names("runs/one")
    body = lake.store.read(name).body
    lake.store.put_if_absent("runs/two/tensorboard/events.out.tfevents.1.x", body[:-30])
    whole, cut = read_curves(lake, "one"), read_curves(lake, "two")
    assert cut == {tag: points for tag, points in whole.items() if tag != "work/share_waiting_for_pictures"}
    assert cut["valid/score"] == [(1, 0.5)]
