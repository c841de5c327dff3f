"""A trunk to start from where no ImageNet weights can be had: a classifier of values on drawn garments."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models import get_model

from agman.taxonomy import FASHIONAI, Taxonomy
from agman.transforms import Augmentation, Preprocess, augment, normalise
from pipelines.dataset import Dataset
from pipelines.training.pictures import training_pictures
from pipelines.training.samples import SamplePool

TRUNK = "resnet18"
BATCH = 192
LR = 2e-3
MOVED = Augmentation(max_shift=0.04, max_zoom=0.08, max_colour=0.1)


def pretrain(dataset: Dataset, image_size: int, seconds: float, path: Path) -> None:
    """Teach a classifier the values of every attribute and keep it under torchvision's names.

    Args:
        dataset: pictures of role train with labels.
        image_size: side in pixels.
        seconds: of processor time.
        path: of the state dict.
    """
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=image_size)
    pictures = training_pictures(dataset, FASHIONAI)
    pool = SamplePool(pictures.share(0, 1), FASHIONAI, preprocess, capacity=len(pictures), seed=0)
    columns = _columns(FASHIONAI)
    network = get_model(TRUNK, weights=None, num_classes=columns[-1].stop).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.02)
    generator = torch.Generator().manual_seed(0)
    started = time.process_time()
    while (share := (time.process_time() - started) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, 20 * share + 0.05) * (1 - share)
        slots = torch.randint(len(pool), (BATCH,), generator=generator).numpy()
        pixels = augment(pool.pixels(slots), generator, MOVED)
        logits = network(normalise(pixels, preprocess).contiguous(memory_format=torch.channels_last))
        loss = _value_loss(logits, pool.labels(slots), columns)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    torch.save(network.state_dict(), path)


def _columns(taxonomy: Taxonomy) -> list[slice]:
    """Give each attribute its columns of the classifier."""
    ends = np.cumsum([len(attribute.values) for attribute in taxonomy])
    return [slice(int(end) - len(a.values), int(end)) for a, end in zip(taxonomy, ends, strict=True)]


def _value_loss(logits: Tensor, labels: list[dict[int, list[int]]], columns: list[slice]) -> Tensor:
    """Cross entropy of naming the value of each attribute that a picture shows."""
    losses = [
        functional.cross_entropy(
            logits[rows][:, columns[attribute]],
            torch.tensor([labels[row][attribute][0] for row in rows]),
            reduction="sum",
        )
        for attribute in range(len(columns))
        if (rows := [row for row, shown in enumerate(labels) if attribute in shown])
    ]
    return torch.stack(losses).sum() / sum(len(shown) for shown in labels)
