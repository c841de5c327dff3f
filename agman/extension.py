"""A model with one attribute more, that embeds under all others bit for bit as before.

All that AG-MAN knows of an attribute is a row of three tables: its question (`attr_embedding`), its choice of
channels (`masks`) and its type (`fc_embed`). A network is extended by rows; everything else is the same
tensor. What another attribute's embedding is computed from does not change, and `folding` computes each
generation of attributes apart, so that not even the order of a sum does.
"""

from dataclasses import fields

import torch
from torch import Tensor

from agman.checkpoint import LoadedModel
from agman.errors import InvalidInput
from agman.model import AGMAN, Network
from agman.prototypes import Prototypes, most_values
from agman.taxonomy import Attribute, Taxonomy
from agman.unfilled import unfilled

ROWS = ("attr_embedding.weight", "masks.weight", "backbonenet.fc_embed.weight", "backbonenet.fc_embed.bias")
"""The tables that have a row for each attribute."""


def extend(network: Network) -> AGMAN:
    """Return a network in eval mode with another attribute, whose rows are zero until they are learned.

    Args:
        network: left as it is.

    Raises:
        InvalidInput: if it is a baseline: `csn` and `plain` embed by what all attributes share.
    """
    if not isinstance(network, AGMAN):
        raise InvalidInput(
            f"an attribute is added to AG-MAN alone: expected head agman, found {network.config.head}; train "
            "the baseline anew with all attributes"
        )
    with unfilled():
        extended = AGMAN(network.config, network.num_attributes + 1)
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for name in ROWS:
        weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name][:1])])
    extended.load_state_dict(weights, assign=True)
    extended.generations = (*network.generations, 1)
    return extended.eval()


def extend_taxonomy(taxonomy: Taxonomy, attribute: Attribute) -> Taxonomy:
    """Return the attributes with another one at the end.

    Raises:
        InvalidInput: if there is one of that name.
    """
    if attribute.name in taxonomy.names:
        raise InvalidInput(
            f"attribute {attribute.name!r}: expected one that the model does not know, found it among "
            f"{', '.join(taxonomy.names)}; to learn it again, train all anew"
        )
    return Taxonomy((*taxonomy.attributes, attribute))


def extend_prototypes(
    known: Prototypes | None, fitted: Prototypes, taxonomy: Taxonomy, dim: int
) -> Prototypes:
    """Keep what is said of the attributes of a model, and take what is said of those after them.

    Args:
        known: of the model; None where it names no values: it goes on naming none.
        fitted: of the extended taxonomy.
        taxonomy: the model's own.
        dim: D.
    """
    kept, number = (known or silent(taxonomy, dim)).tensors(), len(taxonomy)
    joined = {name: tensor.clone() for name, tensor in fitted.tensors().items()}
    for name, tensor in joined.items():
        tensor[:number] = 0  # in a longer list of values, and beside more attributes, nothing is added
        tensor[tuple(slice(size) for size in kept[name].shape)] = kept[name]
    return Prototypes(**joined)


def silent(taxonomy: Taxonomy, dim: int) -> Prototypes:
    """Return prototypes that know no value and say nothing, as a model without any."""
    attributes = len(taxonomy)
    return Prototypes(
        centres=torch.zeros(attributes, most_values(taxonomy), dim),
        known=torch.zeros(attributes, most_values(taxonomy), dtype=torch.bool),
        scale=torch.ones(attributes),
        probe=torch.zeros(attributes, attributes, dim),
        bias=torch.ones(attributes),
        floor=torch.full((attributes,), -1.0),
    )


def why_no_extension(new: LoadedModel, old: LoadedModel) -> str:
    """Return what keeps a model from being another one with attributes added; empty where it is one.

    Every tensor is compared, so that nothing need be believed: where it is one, it embeds a picture under the
    old attributes as the old model, says the same of it, and what the old one embedded stays right.

    Args:
        new: the model that may have more attributes.
        old: the model that it may extend.
    """
    number = len(old.taxonomy)
    if not isinstance(new.model, AGMAN) or not isinstance(old.model, AGMAN):
        return "only AG-MAN can be extended"
    if new.taxonomy.attributes[:number] != old.taxonomy.attributes or len(new.taxonomy) <= number:
        return (
            f"its first {number} of {len(new.taxonomy)} attributes are not the other's, or there are no more"
        )
    if new.preprocess != old.preprocess or new.model.config != old.model.config:
        return "its preprocessing or architecture differs"
    if new.model.generations[: len(old.model.generations)] != old.model.generations:
        return f"its attributes were added as {new.model.generations}, the other's as {old.model.generations}"
    before = old.model.state_dict()
    for name, tensor in new.model.state_dict().items():
        if not torch.equal((tensor[:number] if name in ROWS else tensor).cpu(), before[name].cpu()):
            return f"its tensor {name} differs"
    return _changed_prototypes(new, old)


def _changed_prototypes(new: LoadedModel, old: LoadedModel) -> str:
    dim = old.model.config.embedding_dim
    found = new.prototypes or silent(new.taxonomy, dim)
    expected = extend_prototypes(old.prototypes, found, old.taxonomy, dim)
    for field in fields(Prototypes):
        one: Tensor = getattr(found, field.name)
        if not torch.equal(one, getattr(expected, field.name)):
            return f"its prototypes' {field.name} differs"
    return ""
