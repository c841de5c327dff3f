"""Which load the benchmark of the service reports."""

from benchmarks import serve


def test_the_best_load_is_one_without_a_refusal() -> None:
    loads = [serve.Load(1, 1.0), serve.Load(2, 1.0), serve.Load(4, 1.0)]
    loads[0].codes[200] += 10
    loads[1].codes[200] += 15
    loads[2].codes[200] += 40
    loads[2].codes[429] += 1
    assert serve.best_of(loads) is loads[1]
