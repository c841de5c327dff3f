"""The benchmark of the service climbs until it is refused, and counts what a publication fails."""

import pytest
from served_shop import TOKEN, ServedShop

from benchmarks import serve

pytestmark = pytest.mark.integration


def test_it_climbs_until_it_is_refused_and_publishes_in_the_middle(served_catalog: ServedShop) -> None:
    shop = served_catalog
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
    assert figures["p50_ms"] <= figures["p99_ms"]
    assert figures["uploads_s"] > 0


def test_the_best_load_is_one_without_a_refusal() -> None:
    loads = [serve.Load(1, 1.0), serve.Load(2, 1.0), serve.Load(4, 1.0)]
    loads[0].codes[200] += 10
    loads[1].codes[200] += 15
    loads[2].codes[200] += 40
    loads[2].codes[429] += 1
    assert serve.best_of(loads) is loads[1]
