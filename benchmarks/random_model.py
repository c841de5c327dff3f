"""A network with random weights that tells pictures apart."""

import torch
from torch import Tensor, nn

from agman.model import ModelConfig, Network
from agman.networks import build_network


def random_network(config: ModelConfig, num_attributes: int, inputs: Tensor) -> Network:
    """Return a network whose batch norms have seen some pictures, in eval mode, on their device.

    Args:
        config: of the network.
        num_attributes: of the taxonomy.
        inputs: [B, 3, H, W] normalised.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(config, num_attributes).to(inputs.device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of what is shown
            module.reset_running_stats()
    with torch.no_grad():
        network.train()(inputs, torch.zeros(len(inputs), dtype=torch.long, device=inputs.device))
    return network.eval()
