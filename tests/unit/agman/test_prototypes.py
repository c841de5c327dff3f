"""Prototypes on synthetic clusters, where it is known what must come out."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agman import fitting
from agman.checkpoint import PROTOTYPES, load_model, model_digest, save_model
from agman.errors import CheckpointMismatch, InvalidInput
from agman.fitting import fit, weigh
from agman.model import AGMAN
from agman.prototypes import ABSENT, UNKNOWN, Prototypes
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from agman.transforms import Preprocess

TAXONOMY = Taxonomy((Attribute("neck", ("invisible", "v", "round")), Attribute("leg", ("short", "full"))))
DIM = 24


def clusters(num_pictures: int, seed: int, noise: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings [N, 2, D], values [N, 2] (-1: has none), labels [N, 2, 3] of a complete catalog.

    A third of the pictures has a neck alone, a third legs alone, a third both.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(2, 4, DIM, generator=torch.Generator().manual_seed(99))
    values = torch.stack(
        [
            torch.randint(1, 3, (num_pictures,), generator=generator),
            torch.randint(0, 2, (num_pictures,), generator=generator),
        ],
        dim=1,
    )
    kind = torch.randint(0, 3, (num_pictures,), generator=generator)
    values[kind == 0, 1] = -1
    values[kind == 1, 0] = -1
    # Pictures without an attribute lie at a place of their own.
    at = torch.where(values < 0, 3, values)
    embeddings = centres[torch.arange(2), at] + noise * DIM**0.5 * torch.randn(
        num_pictures, 2, DIM, generator=generator
    )
    labels = functional.one_hot(values.clamp_min(0), 3).bool() & (values >= 0)[:, :, None]
    return functional.normalize(embeddings, dim=2), values, labels


@pytest.fixture(scope="module")
def fitted() -> Prototypes:
    embeddings, _, labels = clusters(600, seed=0)
    return fit(embeddings, labels, TAXONOMY)


def test_a_value_and_its_absence_are_told_on_unseen_pictures(fitted: Prototypes) -> None:
    embeddings, values, _ = clusters(300, seed=1)
    predicted = fitted.predict(embeddings)
    assert predicted.values.dtype == torch.int64
    assert predicted.score.dtype == torch.float32
    assert (predicted.values == values.where(values >= 0, ABSENT)).double().mean() > 0.99
    assert (predicted.score[values >= 0] > 0.9).double().mean() > 0.95
    assert (predicted.score[predicted.values < 0] == 0).all()


def test_predict_equals_a_slow_loop(fitted: Prototypes) -> None:
    embeddings, _, _ = clusters(40, seed=2, noise=0.3)
    predicted = fitted.predict(embeddings)
    for row, picture in enumerate(embeddings):
        for attribute in range(2):
            cosines = {
                value: float(picture[attribute] @ fitted.centres[attribute, value])
                for value in range(3)
                if fitted.known[attribute, value]
            }
            best = max(cosines, key=lambda value: cosines[value])
            asked = float((fitted.probe[attribute] * picture).sum() + fitted.bias[attribute])
            if asked <= 0 or cosines[best] < fitted.floor[attribute]:
                assert predicted.values[row, attribute] == ABSENT
                continue
            scale = float(fitted.scale[attribute])
            odds = {value: 2.718281828 ** (scale * cosine) for value, cosine in cosines.items()}
            assert predicted.values[row, attribute] == best
            assert float(predicted.score[row, attribute]) == pytest.approx(
                odds[best] / sum(odds.values()), rel=1e-4
            )


def test_centres_equal_a_slow_mean(fitted: Prototypes) -> None:
    embeddings, _, labels = clusters(600, seed=0)
    for attribute in range(2):
        for value in range(3):
            shown = [embeddings[i, attribute] for i in range(600) if labels[i, attribute, value]]
            assert bool(fitted.known[attribute, value]) == bool(shown)
            if shown:
                mean = torch.stack(shown).double().mean(dim=0)
                assert torch.allclose(
                    fitted.centres[attribute, value].double(), mean / mean.norm(), atol=1e-5
                )


def test_counts_come_out_right_where_pictures_cannot_be_told_apart() -> None:
    embeddings, values, labels = clusters(3000, seed=3, noise=0.6)
    said = fit(embeddings, labels, TAXONOMY).predict(clusters(3000, seed=4, noise=0.6)[0]).values
    assert float((said >= 0).double().mean()) == pytest.approx(float((values >= 0).double().mean()), abs=0.04)


def test_labels_missing_at_random_say_nothing_of_absence() -> None:
    taxonomy = Taxonomy((*TAXONOMY.attributes, Attribute("hem", ("a", "b"))))
    embeddings, _, labels = clusters(600, seed=5)
    generator = torch.Generator().manual_seed(0)
    hems = functional.normalize(torch.randn(600, 1, DIM, generator=generator), dim=2)
    hem = functional.one_hot(torch.randint(0, 2, (600,), generator=generator), 3).bool()
    hem &= (torch.rand(600, generator=generator) < 0.3)[:, None]
    every = torch.cat([embeddings, hems], dim=1), torch.cat([labels, hem[:, None]], dim=1)
    assert weigh(every[1], taxonomy).lacks[:, 2].double().mean() > 0.5
    found = fit(*every, taxonomy).predict(every[0]).values
    assert (found[:, 2] >= 0).double().mean() > 0.95
    assert (found[:, 0] == ABSENT).any()


def test_one_label_a_picture_says_nothing_of_the_other_attributes() -> None:
    embeddings, values, labels = clusters(600, seed=6)
    for row in range(600):
        carried = (values[row] >= 0).nonzero().flatten()
        labels[row, carried[row % len(carried)]] &= True
        for other in carried.tolist():
            if other != carried[row % len(carried)]:
                labels[row, other] = False
    evidence = weigh(labels, TAXONOMY)
    assert not evidence.complete
    assert not evidence.lacks.any()
    found = fit(embeddings, labels, TAXONOMY)
    assert not found.probe.any()
    assert (found.floor > 0).all()
    said = found.predict(embeddings).values
    # A picture that has the attribute is not refused; one that looks like none of its values is.
    assert (said[values >= 0] == values[values >= 0]).double().mean() > 0.97
    assert (said[values < 0] == ABSENT).double().mean() > 0.97


def test_invisible_teaches_absence_and_is_never_a_value() -> None:
    embeddings, values, labels = clusters(600, seed=7)
    labels[:, 1] = False  # one attribute a picture: no guess from what is not labelled
    labels[values[:, 0] < 0, 0, 0] = True
    evidence = weigh(labels, TAXONOMY)
    assert not evidence.complete
    assert torch.equal(evidence.lacks[:, 0], values[:, 0] < 0)
    found = fit(embeddings, labels, TAXONOMY)
    assert not found.known[0, 0]
    unseen, true, _ = clusters(300, seed=8)
    said = found.predict(unseen).values
    assert (said[:, 0] == true[:, 0].where(true[:, 0] >= 0, ABSENT)).double().mean() > 0.95
    assert (said[:, 1] == UNKNOWN).all()


def test_nothing_labelled_is_nothing_known() -> None:
    embeddings, _, labels = clusters(20, seed=0)
    said = fit(embeddings, torch.zeros_like(labels), TAXONOMY).predict(embeddings)
    assert (said.values == UNKNOWN).all()
    assert (said.score == 0).all()


def test_few_pictures_teach_values_but_no_absence() -> None:
    embeddings, values, labels = clusters(2 * fitting.MIN_EVIDENCE, seed=9)
    found = fit(embeddings, labels, TAXONOMY)
    assert not found.probe.any()
    assert torch.equal(found.predict(embeddings).values.clamp_min(0)[values >= 0], values[values >= 0])


@pytest.fixture
def stored(small_model: AGMAN, tmp_path: Path) -> tuple[Path, Prototypes]:
    taxonomy = Taxonomy(FASHIONAI.attributes[:3])
    dim = small_model.config.embedding_dim
    generator = torch.Generator().manual_seed(0)
    embeddings = functional.normalize(torch.randn(50, 3, dim, generator=generator), dim=2)
    prototypes = fit(embeddings, torch.rand(50, 3, 9, generator=generator) < 0.1, taxonomy)
    save_model(small_model, taxonomy, Preprocess(), tmp_path, prototypes=prototypes)
    return tmp_path, prototypes


def test_round_trip_beside_the_weights(stored: tuple[Path, Prototypes]) -> None:
    folder, prototypes = stored
    read = load_model(folder).prototypes
    assert read is not None
    for name, tensor in prototypes.tensors().items():
        assert torch.equal(read.tensors()[name], tensor)


def test_prototypes_are_part_of_a_models_name(stored: tuple[Path, Prototypes]) -> None:
    loaded = load_model(stored[0])
    weights = loaded.model.state_dict()
    assert loaded.prototypes is not None
    plain = model_digest(weights, loaded.taxonomy, loaded.preprocess)
    other = Prototypes(**{**loaded.prototypes.tensors(), "scale": loaded.prototypes.scale + 1})
    named = {
        plain,
        loaded.digest,
        model_digest(weights, loaded.taxonomy, loaded.preprocess, other),
    }
    assert len(named) == 3
    assert model_digest(weights, loaded.taxonomy, loaded.preprocess, loaded.prototypes) == loaded.digest


def test_damaged_prototypes_are_refused(stored: tuple[Path, Prototypes]) -> None:
    folder, prototypes = stored
    body = bytearray((folder / PROTOTYPES).read_bytes())
    body[-2] ^= 1
    (folder / PROTOTYPES).write_bytes(body)
    with pytest.raises(CheckpointMismatch, match="digest"):
        load_model(folder)
    (folder / PROTOTYPES).write_bytes(b"nothing")
    with pytest.raises(CheckpointMismatch, match=PROTOTYPES):
        load_model(folder)
    (folder / PROTOTYPES).unlink()
    with pytest.raises(InvalidInput, match=PROTOTYPES):
        load_model(folder)
    taxonomy = Taxonomy(FASHIONAI.attributes[:3])
    with pytest.raises(CheckpointMismatch, match=r"centres expected \(3, 9, 7\)"):
        Prototypes.from_tensors(prototypes.tensors(), taxonomy, 7)
    with pytest.raises(CheckpointMismatch, match=r"bias expected \(3,\) .* found nothing"):
        Prototypes.from_tensors({k: v for k, v in prototypes.tensors().items() if k != "bias"}, taxonomy, 48)
