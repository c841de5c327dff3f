"""Model files: a folder of safetensors and JSON, and the checkpoints the authors published."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agman.errors import CheckpointMismatch, InvalidInput
from agman.model import AGMAN, ModelConfig, Network
from agman.networks import build_network
from agman.prototypes import Prototypes
from agman.taxonomy import Taxonomy
from agman.tensor_files import read_tensor_file
from agman.transforms import Preprocess
from agman.unfilled import unfilled

WEIGHTS = "weights.safetensors"
"""Name of the file of tensors within a model's folder."""
PROTOTYPES = "prototypes.safetensors"
"""Name of the file that says values in words; a model without training pictures has none."""
CONFIG = "config.json"
"""Name of the file that describes the tensors; written last, so a folder without it is not finished."""
_PUBLISHED_PREFIX = "embeddingnet."


class LoadedModel(NamedTuple):
    """A model in eval mode on the CPU, with everything that decides its embeddings."""

    model: Network
    """The network with its weights."""
    taxonomy: Taxonomy
    """The attributes, in the order of the network's tables."""
    preprocess: Preprocess
    """How its images are read."""
    digest: str
    """Identity of everything here, as `model_digest`."""
    prototypes: Prototypes | None = None
    """What turns its embeddings into values."""


def model_digest(
    weights: Mapping[str, Tensor],
    taxonomy: Taxonomy,
    preprocess: Preprocess,
    prototypes: Prototypes | None = None,
) -> str:
    """Name a model by everything its embedding rows depend on.

    Args:
        weights: the state dict.
        taxonomy: the attributes, in order.
        preprocess: how images are read.
        prototypes: what gives the rows their values.

    Returns:
        64 hex digits: sha256 over the tensors by name with dtype, shape and bytes, then both digests.
    """
    digest = hashlib.sha256()
    tensors = dict(weights)
    if prototypes is not None:
        tensors |= {f"{PROTOTYPES}/{name}": tensor for name, tensor in prototypes.tensors().items()}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # Read as bytes, since numpy knows no bfloat16; reshape, since a scalar has no last dimension.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(f"{taxonomy.digest}\0{preprocess.digest}".encode())
    return digest.hexdigest()


def save_model(
    model: Network,
    taxonomy: Taxonomy,
    preprocess: Preprocess,
    folder: str | Path,
    *,
    prototypes: Prototypes | None = None,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write a model's folder.

    Args:
        model: the network.
        taxonomy: its attributes, in order.
        preprocess: how its images are read.
        folder: made if absent; files in it are replaced.
        prototypes: what turns its embeddings into values.
        extra: kept in config.json beside the rest, outside the digest: metrics, training settings.

    Returns:
        The model's digest.

    Raises:
        InvalidInput: if taxonomy and network disagree on the number of attributes.
    """
    if len(taxonomy) != model.num_attributes:
        raise InvalidInput(f"the network has {model.num_attributes} attributes, the taxonomy {len(taxonomy)}")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    digest = model_digest(weights, taxonomy, preprocess, prototypes)
    description = {
        "format": 1,
        "digest": digest,
        "architecture": model.config.to_json(),
        "taxonomy": taxonomy.to_json(),
        "preprocess": preprocess.to_json(),
        "prototypes": prototypes is not None,
        "extra": dict(extra or {}),
    }
    if isinstance(model, AGMAN) and len(model.generations) > 1:
        description["generations"] = list(model.generations)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {WEIGHTS: weights, **({PROTOTYPES: prototypes.tensors()} if prototypes is not None else {})}
    for name, stored in tensors.items():
        save_file(stored, folder / f"{name}.partial")
        os.replace(folder / f"{name}.partial", folder / name)
    partial_config = folder / f"{CONFIG}.partial"
    partial_config.write_text(json.dumps(description, indent=2) + "\n")
    os.replace(partial_config, folder / CONFIG)
    return digest


def load_model(folder: str | Path) -> LoadedModel:
    """Read a model's folder and verify every tensor and the digest.

    Raises:
        InvalidInput: if the folder holds no model.
        CheckpointMismatch: if tensors, description and digest do not belong together.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InvalidInput(f"no model at {folder}: {name} is missing")
    try:
        description = json.loads((folder / CONFIG).read_text())
        config = ModelConfig.from_json(description["architecture"])
        taxonomy = Taxonomy.from_json(description["taxonomy"])
        preprocess = Preprocess.from_json(description["preprocess"])
        named: str = description["digest"]
        generations = tuple(int(number) for number in description.get("generations", ()))
        if generations and (min(generations) < 1 or sum(generations) != len(taxonomy)):
            raise ValueError(f"generations {generations} are not of {len(taxonomy)} attributes")
        weights = load_file(folder / WEIGHTS)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointMismatch(f"{folder} cannot be read: {error!r}") from error
    model = _assemble(config, len(taxonomy), weights, folder / WEIGHTS)
    if isinstance(model, AGMAN) and generations:
        model.generations = generations
    prototypes = _load_prototypes(folder, taxonomy, config) if description.get("prototypes") else None
    digest = model_digest(weights, taxonomy, preprocess, prototypes)
    if digest != named:
        raise CheckpointMismatch(f"{folder}: {CONFIG} names digest {named}, its files give {digest}")
    return LoadedModel(model, taxonomy, preprocess, digest, prototypes)


def _load_prototypes(folder: Path, taxonomy: Taxonomy, config: ModelConfig) -> Prototypes:
    if not (folder / PROTOTYPES).is_file():
        raise InvalidInput(f"no model at {folder}: {CONFIG} tells of {PROTOTYPES}, which is missing")
    try:
        tensors = load_file(folder / PROTOTYPES)
    except (ValueError, SafetensorError) as error:
        raise CheckpointMismatch(f"{folder / PROTOTYPES} cannot be read: {error!r}") from error
    return Prototypes.from_tensors(tensors, taxonomy, config.embedding_dim)


def load_published(path: str | Path, *, trunk: str = "resnet50") -> AGMAN:
    """Read a checkpoint of the authors' code, `{"epoch", "state_dict", "prec"}`.

    Nothing in the file is executed: it is unpickled with torch's restricted reader.

    Args:
        path: the .pth.tar file.
        trunk: the ResNet it was trained with.

    Returns:
        The network in eval mode on the CPU, with as many attributes as the file has masks.

    Raises:
        InvalidInput: if there is no such file.
        CheckpointMismatch: if it is no such checkpoint; the message names the first wrong tensor.
    """
    weights = _published_weights(Path(path))
    masks = weights.get("masks.weight")
    if masks is None or masks.ndim != 2:
        found = "nothing" if masks is None else tuple(masks.shape)
        raise CheckpointMismatch(f"{path}: masks.weight expected [attributes, dimensions], found {found}")
    num_attributes, embedding_dim = masks.shape
    model = _assemble(ModelConfig(trunk=trunk, embedding_dim=embedding_dim), num_attributes, weights, path)
    assert isinstance(model, AGMAN)
    return model


def _published_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict without prefix and without the trunk's unused ImageNet classifier."""
    checkpoint = read_tensor_file(path, "checkpoint")
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointMismatch(f"{path}: expected a 'state_dict' of tensors, found {type(state).__name__}")
    names = {name: str(name).removeprefix(_PUBLISHED_PREFIX) for name in state}
    return {names[n]: t for n, t in state.items() if not names[n].startswith("backbonenet.fc.")}


def _assemble(
    config: ModelConfig, num_attributes: int, weights: Mapping[str, Tensor], source: str | Path
) -> Network:
    """Put verified tensors into a network that was never initialised."""
    with unfilled():
        model = build_network(config, num_attributes)
    expected = model.state_dict()
    for name, tensor in expected.items():
        _check_tensor(name, tensor, weights.get(name), source)
    unexpected = sorted(set(weights) - set(expected))
    if unexpected:
        raise CheckpointMismatch(f"{source}: {unexpected[0]} is not part of the network {config}")
    # Checkpoints older than torch 0.4.1 lack the counters, which play no part at inference.
    full = {name: weights.get(name, torch.zeros((), dtype=torch.int64)) for name in expected}
    model.load_state_dict(full, assign=True)
    return model.eval()


def _check_tensor(name: str, expected: Tensor, found: Tensor | None, source: str | Path) -> None:
    if found is None:
        if name.endswith("num_batches_tracked"):
            return
        raise CheckpointMismatch(f"{source}: {name} expected {tuple(expected.shape)}, found nothing")
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise CheckpointMismatch(
            f"{source}: {name} expected {tuple(expected.shape)} {expected.dtype}, "
            f"found {tuple(found.shape)} {found.dtype}"
        )
    if not bool(torch.isfinite(found).all()):
        raise CheckpointMismatch(f"{source}: {name} holds values that are not finite; training diverged")
