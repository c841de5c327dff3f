"""An attribute added to a model: every bit of what was there stays, and nothing else passes for that."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agman.checkpoint import LoadedModel, load_model, save_model
from agman.embedder import Embedder
from agman.errors import InvalidInput
from agman.extension import extend, extend_prototypes, extend_taxonomy, why_no_extension
from agman.fitting import fit
from agman.losses import contrastive_loss
from agman.model import AGMAN, ModelConfig
from agman.networks import build_network
from agman.prototypes import Prototypes, most_values
from agman.rows import Rows, RowsConfig, learn_rows, set_rows
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from agman.transforms import Preprocess

from .conftest import pictures, plainly

LENGTH = Attribute(
    "strap_length", ("short", "long", "none", "invisible", "v5", "v6", "v7", "v8", "v9", "v10", "v11")
)


def drawn(num_attributes: int, dim: int = 48) -> AGMAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AGMAN(ModelConfig(trunk="resnet18", embedding_dim=dim), num_attributes).eval()


def grown(network: AGMAN) -> AGMAN:
    """The network with an attribute whose rows are drawn."""
    extended = extend(network)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for table in (extended.attr_embedding, extended.masks):
            table.weight[-1].uniform_(0.1, 1.0)
    return extended


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_attributes", [3, 7, 8, 15])
def test_no_other_bit_changes(num_attributes: int, dtype: torch.dtype) -> None:
    before = drawn(num_attributes)
    once = grown(before)
    twice = grown(once)
    embedders = [Embedder(network, dtype) for network in (before, once, twice)]
    for batch in (1, 5):
        images = pictures(batch, 3, 64, 64)
        expected, first, second = (embedder.embed_with_attention(images) for embedder in embedders)
        for found in (first, second):
            assert torch.equal(found.embedding[:, :num_attributes], expected.embedding)
            assert torch.equal(found.attention[:, :num_attributes], expected.attention)
        assert torch.equal(second.embedding[:, : num_attributes + 1], first.embedding)
        assert second.embedding.shape[1] == num_attributes + 2


def test_an_added_attribute_is_embedded_as_by_the_plain_network() -> None:
    network = grown(drawn(3))
    images = pictures(4, 3, 97, 130)
    found = Embedder(network, torch.float32).embed_with_attention(images)
    embedding, attention = plainly(network, images)
    torch.testing.assert_close(found.embedding, embedding, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.attention, attention, atol=1e-5, rtol=0)


def test_features_are_what_all_attributes_look_at() -> None:
    network, images = drawn(3), pictures(2, 3, 64, 96)
    embedder = Embedder(network, torch.float32)
    embedding, found = embedder.embed_with_features(images)
    assert torch.equal(embedding, embedder.embed(images))
    with torch.inference_mode():
        levels = network.features(images)
        expected = network.conv1(network.w * torch.cat([levels.level3, levels.local], dim=1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(InvalidInput, match="found a baseline"):
        Embedder(build_network(replace(network.config, head="csn"), 3), torch.float32).embed_with_features(
            images
        )


def test_rows_are_learned_and_nothing_else_is_touched() -> None:
    network = drawn(3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shows = torch.arange(40) % 2
    noise = torch.randn(40, 48, 4, 4, generator=torch.Generator().manual_seed(2))
    noise[:, 7] += 1.5 * shows.view(-1, 1, 1)
    shown = torch.nn.functional.one_hot(shows).bool()

    def loss(rows: Rows) -> float:
        vectors = rows.embed_all(network, noise)
        return float(contrastive_loss(vectors, torch.zeros_like(shows), shows, torch.arange(40)).loss)

    learned = learn_rows(network, noise.half(), shown, RowsConfig(steps=40, pictures_per_step=32))
    assert learned.step == 40
    tables = zip(network.attr_embedding.weight, network.masks.weight, strict=True)
    # The least possible is log 19 = 2.94.
    assert loss(learned.rows) < min(loss(Rows(question, mask)) for question, mask in tables) - 0.5
    extended = extend(network)
    set_rows(extended, 3, learned.rows)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(extended.attr_embedding.weight[3], learned.rows.question)
    with pytest.raises(InvalidInput, match="at least two values"):
        learn_rows(network, noise, torch.ones(40, 1, dtype=torch.bool), RowsConfig())


def test_the_best_validated_rows_are_kept() -> None:
    network, shown = drawn(2), torch.nn.functional.one_hot(torch.arange(20) % 2).bool()
    features = torch.randn(20, 48, 2, 2, generator=torch.Generator().manual_seed(2))
    scores = iter([0.1, 0.7, 0.2, 0.3])
    config = RowsConfig(steps=6, judge_every=2)
    learned = learn_rows(network, features, shown, config, lambda rows: next(scores))
    assert (learned.step, learned.score) == (2, 0.7)
    with pytest.raises(InvalidInput, match="steps > 0"):
        RowsConfig(steps=0)


def test_only_agman_and_only_a_new_name() -> None:
    with pytest.raises(InvalidInput, match="found csn"):
        extend(build_network(ModelConfig(trunk="resnet18", head="csn", embedding_dim=8), 2))
    with pytest.raises(InvalidInput, match="does not know, found it"):
        extend_taxonomy(FASHIONAI, Attribute("neck_design", ("a",)))


@pytest.fixture(scope="module")
def spoken() -> LoadedModel:
    """A model of three attributes that names values."""
    taxonomy, network = Taxonomy(FASHIONAI.attributes[:3]), drawn(3, dim=16)
    return LoadedModel(network, taxonomy, Preprocess(image_size=64), "", taught(network, taxonomy))


def taught(network: AGMAN, taxonomy: Taxonomy) -> Prototypes:
    draws = torch.Generator().manual_seed(5)
    vectors = torch.nn.functional.normalize(
        torch.randn(60, len(taxonomy), network.config.embedding_dim, generator=draws), dim=2
    )
    labels = torch.rand(60, len(taxonomy), most_values(taxonomy), generator=draws) < 0.2
    for index, attribute in enumerate(taxonomy):
        labels[:, index, len(attribute.values) :] = False
    return fit(vectors, labels, taxonomy)


def extension_of(old: LoadedModel) -> LoadedModel:
    network, taxonomy = grown(old.model), extend_taxonomy(old.taxonomy, LENGTH)
    fitted = taught(network, taxonomy)
    prototypes = extend_prototypes(old.prototypes, fitted, old.taxonomy, 16)
    return LoadedModel(network, taxonomy, old.preprocess, "", prototypes)


def test_an_extension_is_one_also_from_disk(spoken: LoadedModel, tmp_path: Path) -> None:
    new = extension_of(spoken)
    assert why_no_extension(new, spoken) == ""
    save_model(*new[:3], tmp_path, prototypes=new.prototypes)
    loaded = load_model(tmp_path)
    assert loaded.model.generations == (3, 1)
    assert why_no_extension(loaded, spoken) == ""
    renamed = Taxonomy((*spoken.taxonomy, replace(LENGTH, name="other")))
    again = extension_of(loaded._replace(taxonomy=renamed))
    assert again.model.generations == (3, 1, 1)
    assert why_no_extension(again, loaded._replace(taxonomy=renamed)) == ""
    silent = spoken._replace(prototypes=None)
    assert why_no_extension(extension_of(silent), silent) == ""


def test_it_says_of_the_old_attributes_what_was_said(spoken: LoadedModel) -> None:
    new = extension_of(spoken)
    images = pictures(6, 3, 64, 64)
    said = spoken.prototypes.predict(Embedder(spoken.model, torch.float32).embed(images))
    found = new.prototypes.predict(Embedder(new.model, torch.float32).embed(images))
    assert torch.equal(found.values[:, :3], said.values)
    torch.testing.assert_close(found.score[:, :3], said.score)


def tensor_changed(new: LoadedModel, name: str) -> LoadedModel:
    network = extend(drawn(3, dim=16))
    network.load_state_dict(new.model.state_dict())
    with torch.no_grad():
        network.state_dict()[name].view(-1)[0] += 1
    return new._replace(model=network)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda new: tensor_changed(new, "masks.weight"), "masks.weight differs"),
        (lambda new: tensor_changed(new, "img_bn1.running_mean"), "running_mean differs"),
        (lambda new: tensor_changed(new, "backbonenet.fc_embed.bias"), "fc_embed.bias differs"),
        (lambda new: new._replace(preprocess=Preprocess(image_size=96)), "preprocessing"),
        (lambda new: new._replace(taxonomy=Taxonomy(new.taxonomy.attributes[::-1])), "attributes are not"),
        (lambda new: new._replace(prototypes=None), "prototypes' centres differs"),
        (
            lambda new: new._replace(prototypes=replace(new.prototypes, floor=new.prototypes.floor - 1)),
            "floor differs",
        ),
    ],
)
def test_what_differs_is_named(
    spoken: LoadedModel, changed: Callable[[LoadedModel], LoadedModel], why: str
) -> None:
    assert why in why_no_extension(changed(extension_of(spoken)), spoken)


def test_a_model_extends_neither_itself_nor_what_has_more(spoken: LoadedModel) -> None:
    assert "attributes are not" in why_no_extension(spoken, spoken)
    assert "attributes are not" in why_no_extension(spoken, extension_of(spoken))
