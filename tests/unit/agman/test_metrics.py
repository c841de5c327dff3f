import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agman.metrics import Listed, average_precision, expected_random_ap, retrieval, triplet_accuracy

ROW = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=6)


def slow_average_precision(hits: list[bool]) -> float:
    found, total = 0, 0.0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            found += 1
            total += found / rank
    return total / found if found else 0.0


def lines(vectors: torch.Tensor, values: torch.Tensor, first_picture: int) -> Listed:
    return Listed(vectors, values, torch.arange(first_picture, first_picture + len(vectors)))


@given(st.lists(ROW, min_size=1, max_size=5))
def test_average_precision_equals_the_loop(rows: list[list[tuple[bool, bool]]]) -> None:
    pairs = torch.tensor(rows)
    found = average_precision(pairs[..., 0], pairs[..., 1])
    expected = [slow_average_precision([hit for hit, valid in row if valid]) for row in rows]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    unpadded = [slow_average_precision([hit for hit, _ in row]) for row in rows]
    assert average_precision(pairs[..., 0]).tolist() == pytest.approx(unpadded, abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 14), st.integers(1, 12), st.integers(0, 2**31))
def test_retrieval_equals_the_loop(num_queries: int, num_gallery: int, num_pictures: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(number: int) -> Listed:
        # Few levels and few pictures, so that ties and queries that meet themselves are common; zero is
        # drawn with both signs, which compare as equal.
        vectors = torch.randint(-1, 2, (number, 2), generator=generator).float()
        signs = torch.randint(0, 2, (number, 2), generator=generator) * 2 - 1
        pictures = torch.randint(0, num_pictures, (number,), generator=generator)
        return Listed(vectors * signs, torch.randint(0, 3, (number,), generator=generator), pictures)

    queries, gallery = draw(num_queries), draw(num_gallery)
    found = retrieval(queries, gallery)
    for i in range(num_queries):
        ranked = []
        for j in range(num_gallery):
            if queries.pictures[i] != gallery.pictures[j]:
                hit = bool(queries.values[i] == gallery.values[j])
                ranked.append((-float(queries.vectors[i] @ gallery.vectors[j]), hit))
        hits = [hit for _, hit in sorted(ranked)]  # of equal scores the irrelevant, False, first
        assert float(found.average_precision[i]) == pytest.approx(slow_average_precision(hits))
        assert [bool(found.recall_at[k][i]) for k in (1, 5, 10)] == [any(hits[:k]) for k in (1, 5, 10)]
        assert found.num_relevant[i] == sum(hits)
        assert found.num_candidates[i] == len(hits)


def test_the_order_of_the_candidates_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(4)
    gallery = lines(torch.randint(-1, 2, (60, 3), generator=generator).float(), torch.arange(60) % 4, 100)
    queries = lines(torch.randint(-1, 2, (9, 3), generator=generator).float(), torch.arange(9) % 4, 0)
    order = torch.randperm(60, generator=generator)
    shuffled = Listed(*(part[order] for part in gallery))
    found, again = retrieval(queries, gallery), retrieval(queries, shuffled)
    assert torch.equal(found.average_precision, again.average_precision)
    assert all(torch.equal(found.recall_at[k], again.recall_at[k]) for k in found.recall_at)


def test_who_tells_nothing_apart_finds_nothing_first() -> None:
    alike = torch.ones(4, 2)
    found = retrieval(lines(alike[:1], torch.tensor([1]), 9), lines(alike, torch.tensor([1, 0, 1, 0]), 0))
    assert found.average_precision.tolist() == [pytest.approx((1 / 3 + 2 / 4) / 2)]
    assert not found.recall_at[1].any()


def test_a_query_without_relevant_candidate_counts_as_zero() -> None:
    found = retrieval(lines(torch.eye(2)[:1], torch.tensor([5]), 2), lines(torch.eye(2), torch.zeros(2), 0))
    assert found.average_precision.tolist() == [0.0]
    assert found.num_relevant.tolist() == [0]


def test_chunks_do_not_change_a_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    queries = lines(torch.randn(7, 4, generator=generator), torch.arange(7) % 3, 5)
    gallery = lines(torch.randn(9, 4, generator=generator), torch.arange(9) % 3, 0)
    whole = retrieval(queries, gallery)
    monkeypatch.setattr("agman.metrics.CHUNK_SCORES", 20)
    parts = retrieval(queries, gallery)
    torch.testing.assert_close(parts.average_precision, whole.average_precision)
    assert parts.num_candidates.tolist() == whole.num_candidates.tolist() == [8, 8, 8, 8, 9, 9, 9]


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        average_precision(torch.ones(2, 3).bool(), torch.ones(3, 2).bool())
    whole = lines(torch.ones(2, 2), torch.zeros(2), 0)
    with pytest.raises(ValueError, match="gallery vector is not finite"):
        retrieval(whole, whole._replace(vectors=torch.tensor([[1.0, torch.nan], [0.0, 1.0]])))


@pytest.mark.parametrize(
    ("num_relevant", "num_gallery"), [(0, 5), (1, 1), (1, 10), (3, 10), (10, 10), (4, 40)]
)
def test_random_ranking_agrees_with_simulation(num_relevant: int, num_gallery: int) -> None:
    order = random.Random(1)
    hits = [True] * num_relevant + [False] * (num_gallery - num_relevant)
    rows = torch.tensor([order.sample(hits, num_gallery) for _ in range(10_000)])
    simulated = average_precision(rows)
    error = 5 * float(simulated.std()) / 10_000**0.5 + 1e-9
    # Beside another query, whose gallery is larger.
    found = expected_random_ap(torch.tensor([num_relevant, 2]), torch.tensor([num_gallery, 50]))
    assert float(found[0]) == pytest.approx(float(simulated.mean()), abs=error)


def test_random_ranking_of_no_query_and_no_candidate() -> None:
    assert expected_random_ap(torch.tensor([0]), torch.tensor([0])).tolist() == [0.0]
    assert expected_random_ap(torch.zeros(0).long(), torch.zeros(0).long()).tolist() == []


def test_triplet_accuracy_is_strict() -> None:
    anchor, positive = torch.eye(2), torch.eye(2)
    tied = torch.stack([torch.tensor([0.0, 1.0]), positive[1]])
    assert triplet_accuracy(anchor, positive, tied) == 0.5


def test_more_relevant_than_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="6 of 5"):
        expected_random_ap(torch.tensor([1, 6]), torch.tensor([5, 5]))
