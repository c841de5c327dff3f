import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agman.metrics import (
    average_precision,
    expected_random_ap,
    mean_over_attributes,
    retrieval,
    same_value,
    triplet_accuracy,
)

ROW = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=6)


def slow_average_precision(hits: list[bool]) -> float:
    found, total = 0, 0.0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            found += 1
            total += found / rank
    return total / found if found else 0.0


@given(st.lists(ROW, min_size=1, max_size=5))
def test_average_precision_equals_the_loop(rows: list[list[tuple[bool, bool]]]) -> None:
    pairs = torch.tensor(rows)
    found = average_precision(pairs[..., 0], pairs[..., 1])
    expected = [slow_average_precision([hit for hit, valid in row if valid]) for row in rows]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**31))
def test_retrieval_equals_the_loop(num_queries: int, num_gallery: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few levels, so that ties are common and the stable order is put to the test.
    queries = torch.randint(-1, 2, (num_queries, 2), generator=generator).float()
    gallery = torch.randint(-1, 2, (num_gallery, 2), generator=generator).float()
    relevant = torch.randint(0, 2, (num_queries, num_gallery), generator=generator).bool()
    found = retrieval(queries, gallery, relevant)
    for i in range(num_queries):
        scores = [float(queries[i] @ candidate) for candidate in gallery]
        order = sorted(range(num_gallery), key=lambda j: -scores[j])
        hits = [bool(relevant[i, j]) for j in order]
        assert float(found.average_precision[i]) == pytest.approx(slow_average_precision(hits))
        assert [bool(found.recall_at[k][i]) for k in (1, 5, 10)] == [any(hits[:k]) for k in (1, 5, 10)]
        assert found.num_relevant[i] == sum(hits)


def test_a_query_without_relevant_candidate_counts_as_zero() -> None:
    found = retrieval(torch.eye(2)[:1], torch.eye(2), torch.zeros(1, 2).bool())
    assert found.average_precision.tolist() == [0.0]
    assert found.num_relevant.tolist() == [0]


def test_chunks_do_not_change_a_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    queries, gallery = torch.randn(7, 4, generator=generator), torch.randn(9, 4, generator=generator)
    relevant = torch.rand(7, 9, generator=generator) < 0.3
    whole = retrieval(queries, gallery, relevant).average_precision
    monkeypatch.setattr("agman.metrics.CHUNK_QUERIES", 3)
    torch.testing.assert_close(retrieval(queries, gallery, relevant).average_precision, whole)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        average_precision(torch.ones(2, 3).bool(), torch.ones(3, 2).bool())
    with pytest.raises(ValueError, match="expected"):
        retrieval(torch.ones(1, 2), torch.ones(3, 2), torch.ones(1, 2).bool())


@pytest.mark.parametrize(
    ("num_relevant", "num_gallery"), [(0, 5), (1, 1), (1, 10), (3, 10), (10, 10), (4, 40)]
)
def test_random_ranking_agrees_with_simulation(num_relevant: int, num_gallery: int) -> None:
    order = random.Random(1)
    hits = [True] * num_relevant + [False] * (num_gallery - num_relevant)
    rows = torch.tensor([order.sample(hits, num_gallery) for _ in range(10_000)])
    simulated = average_precision(rows, torch.ones_like(rows))
    error = 5 * float(simulated.std()) / 10_000**0.5 + 1e-9
    assert expected_random_ap(num_relevant, num_gallery) == pytest.approx(float(simulated.mean()), abs=error)


def test_triplet_accuracy_is_strict() -> None:
    anchor, positive = torch.eye(2), torch.eye(2)
    tied = torch.stack([torch.tensor([0.0, 1.0]), positive[1]])
    assert triplet_accuracy(anchor, positive, tied) == 0.5


def test_means_weigh_queries_and_attributes_differently() -> None:
    eye, values = torch.eye(3), torch.tensor([0, 1, 2])
    good = retrieval(eye, eye, same_value(values, values))
    none = retrieval(eye[:1], eye, same_value(torch.tensor([9]), values))
    empty = retrieval(eye[:0], eye, same_value(values[:0], values))
    assert mean_over_attributes({"neck": good, "lapel": none, "coat": empty}) == (0.75, 0.5)
    with pytest.raises(ValueError, match="no query in any of 1"):
        mean_over_attributes({"coat": empty})


def test_more_relevant_than_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="6 of 5"):
        expected_random_ap(6, 5)
