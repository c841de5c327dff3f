"""A model with an attribute more, whose rows are drawn: for nights that embed it."""

from pathlib import Path

import torch

from agman.checkpoint import load_model, save_model
from agman.extension import extend, extend_taxonomy
from agman.taxonomy import Attribute


def extended_model(old: Path, folder: Path, attribute: Attribute) -> Path:
    """Save the model of a folder, one without prototypes, with an attribute added."""
    loaded = load_model(old)
    network = extend(loaded.model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for table in (network.attr_embedding, network.masks):
            table.weight[-1].uniform_(0.1, 1.0)
    save_model(network, extend_taxonomy(loaded.taxonomy, attribute), loaded.preprocess, folder)
    return folder
