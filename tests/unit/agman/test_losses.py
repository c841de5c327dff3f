import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from agman.losses import (
    LearnedWeighting,
    Mining,
    PaperWeighting,
    batch_triplet_loss,
    contrastive_loss,
    triplet_loss,
    type_loss,
    violating_share,
)


def slow_batch_loss(rows: torch.Tensor, keys: list[list[int]], mining: Mining) -> tuple[float, float]:
    """The docstring's law as loops; a key is [attribute, value, picture]."""
    shown = {tuple(key) for key in keys}
    losses: list[float] = []
    num_valid, num_violating = 0, 0
    for a, (attribute, value, picture) in enumerate(keys):
        same = [i for i, key in enumerate(keys) if key[0] == attribute]
        negatives = [n for n in same if (attribute, value, keys[n][2]) not in shown]
        for p in (i for i in same if keys[i][1] == value and keys[i][2] != picture):
            gaps = [float(rows[a] @ rows[n] - rows[a] @ rows[p]) for n in negatives]
            violating = [gap for gap in gaps if gap + 0.2 > 0]
            num_valid, num_violating = num_valid + len(gaps), num_violating + len(violating)
            if mining == "semi_hard":
                violating = [gap for gap in violating if gap < 0]
            elif mining == "hard":
                violating = violating and [max(violating)]
            losses += [gap + 0.2 for gap in violating]
    return sum(losses) / max(1, len(losses)), num_violating / max(1, num_valid)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), num_rows=st.integers(1, 14))
def test_batch_loss_equals_the_loop(mining: Mining, seed: int, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few pictures and values, so that multi-valued pictures are common.
    keys = torch.randint(0, 3, (num_rows, 3), generator=generator).unique(dim=0)
    rows = functional.normalize(torch.randn(len(keys), 4, generator=generator).double(), dim=1)
    loss, share = batch_triplet_loss(rows, keys[:, 0], keys[:, 1], keys[:, 2], margin=0.2, mining=mining)
    expected_loss, expected_share = slow_batch_loss(rows, keys.tolist(), mining)
    assert float(loss) == pytest.approx(expected_loss, abs=1e-9)
    assert float(share) == pytest.approx(expected_share, abs=1e-6)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_batch_without_triplets_has_a_zero_gradient(mining: Mining) -> None:
    rows, same = torch.randn(3, 4, requires_grad=True), torch.zeros(3, dtype=torch.int64)
    batch_triplet_loss(rows, same, same, torch.arange(3), mining=mining)[0].backward()
    assert rows.grad is not None
    assert (rows.grad == 0).all()


def test_triplet_loss_by_hand() -> None:
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert triplet_loss(east, east, north) == 0.0
    assert float(triplet_loss(east, north, east)) == pytest.approx(1.2)
    assert float(triplet_loss(east, north, north)) == pytest.approx(0.2)
    both = (torch.cat([east, east]), torch.cat([east, north]), torch.cat([north, north]))
    assert float(triplet_loss(*both, margin=0.5)) == pytest.approx(0.25)
    assert violating_share(*both) == 0.5


def test_type_loss_takes_several_attributes() -> None:
    logits = torch.tensor([[100.0, -100.0, 100.0]])
    assert float(type_loss(logits, torch.tensor([[1.0, 0.0, 1.0]]))) == pytest.approx(0.0, abs=1e-6)
    assert float(type_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]))) == pytest.approx(100 / 3)


def test_paper_weighting_is_equal_and_constant() -> None:
    weighting = PaperWeighting()
    assert weighting(torch.tensor(2.0), torch.tensor(4.0)) == 3.0
    assert not list(weighting.parameters())


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_gradient_and_blocks_equal_one_graph(mining: Mining, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    keys = torch.randint(0, 3, (14, 3), generator=generator).unique(dim=0)
    rows = functional.normalize(
        torch.randn(len(keys), 4, generator=generator).double(), dim=1
    ).requires_grad_()

    def loss(whole: torch.Tensor) -> torch.Tensor:
        return batch_triplet_loss(whole, keys[:, 0], keys[:, 1], keys[:, 2], mining=mining).loss

    expected = loss(rows)
    monkeypatch.setattr("agman.losses._BLOCK_NUMBERS", 30)
    torch.testing.assert_close(loss(rows), expected)
    assert torch.autograd.gradcheck(loss, rows, eps=1e-7, atol=1e-5)


def test_a_picture_of_both_values_is_no_negative() -> None:
    embeddings = torch.eye(3)[[0, 1, 2, 2]]
    picture = torch.tensor([0, 1, 2, 2])
    found = batch_triplet_loss(
        embeddings, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 0, 1]), picture
    )
    assert found.loss == 0.0
    assert found.violating == 0.0


def test_a_large_batch_stays_in_bounded_memory() -> None:
    # All 600 x 300 x 300 triplets of float32 with their graph would take gigabytes.
    embeddings = torch.nn.functional.normalize(torch.randn(600, 16), dim=1).requires_grad_()
    value = torch.arange(600) % 2
    with torch.autograd.graph.saved_tensors_hooks(_refuse_large, lambda tensor: tensor):
        loss = batch_triplet_loss(embeddings, torch.zeros_like(value), value, torch.arange(600)).loss
    loss.backward()
    assert loss > 0.2


def _refuse_large(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.numel() <= 600 * 600
    return tensor


def descend(weighting: LearnedWeighting, losses: torch.Tensor) -> torch.Tensor:
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weighting(*losses).backward()
        optimizer.step()
    return weighting.log_variance.detach()


def test_learned_weight_of_a_loss_of_zero_stays_bounded() -> None:
    weighting = LearnedWeighting()
    descend(weighting, torch.tensor([0.0, 1.0]))
    assert weighting(torch.tensor(1.0), torch.tensor(0.0)) < 30


def test_learned_weighting_finds_its_minimum() -> None:
    # 0.5 exp(-s) L + 0.5 s is least at s = log L.
    losses = torch.tensor([3.0, 0.25])
    torch.testing.assert_close(descend(LearnedWeighting(), losses), losses.log(), atol=1e-3, rtol=0)


def slow_contrastive(embeddings, attribute, value, picture, temperature):
    losses, wrong = [], 0
    for i in range(len(embeddings)):
        rows = [
            j for j in range(len(embeddings)) if attribute[j] == attribute[i] and picture[j] != picture[i]
        ]
        positives = [j for j in rows if value[j] == value[i]]
        showing = {int(picture[j]) for j in positives}
        others = [j for j in rows if value[j] != value[i] and int(picture[j]) not in showing]
        if not positives:
            continue
        score = {j: float(embeddings[i] @ embeddings[j]) / temperature for j in positives + others}
        total = math.log(sum(math.exp(s) for s in score.values()))
        losses.append(-sum(score[j] - total for j in positives) / len(positives))
        wrong += max(score, key=score.get) not in positives
    return sum(losses) / max(1, len(losses)), wrong / max(1, len(losses))


@pytest.mark.parametrize("seed", range(5))
def test_contrastive_loss_equals_a_slow_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    embeddings = functional.normalize(torch.randn(24, 6, generator=generator), dim=1)
    attribute = torch.randint(0, 2, (24,), generator=generator)
    value = torch.randint(0, 3, (24,), generator=generator)
    picture = torch.randint(0, 12, (24,), generator=generator)
    rows = torch.unique(torch.stack((picture, attribute, value), 1), dim=0)
    picture, attribute, value = rows.unbind(1)
    embeddings = embeddings[: len(rows)]
    found = contrastive_loss(embeddings, attribute, value, picture, temperature=0.2)
    loss, wrong = slow_contrastive(embeddings, attribute, value, picture, 0.2)
    assert float(found.loss) == pytest.approx(loss, rel=1e-4)
    assert float(found.violating) == pytest.approx(wrong)


def test_contrastive_loss_without_positives_is_zero_with_a_zero_gradient():
    embeddings = functional.normalize(torch.randn(3, 4), dim=1).requires_grad_()
    rows = torch.arange(3)
    loss = contrastive_loss(embeddings, torch.zeros(3, dtype=torch.long), rows, rows).loss
    loss.backward()
    assert float(loss) == 0.0
    assert torch.equal(embeddings.grad, torch.zeros(3, 4))
