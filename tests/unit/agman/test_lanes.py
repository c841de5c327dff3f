"""Batches from several threads through the lanes: on a GPU where there is one, else on the CPU."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from agman.embedder import Embedder
from agman.lanes import Lanes
from agman.model import ModelConfig
from agman.networks import build_network
from agman.transforms import Preprocess, normalise

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PREPROCESS = Preprocess(image_size=32)
BATCH_SIZE = 4


def test_each_thread_gets_the_embeddings_of_its_own_pixels() -> None:
    torch.manual_seed(0)
    network = build_network(ModelConfig(trunk="resnet18", embedding_dim=32), 3).eval().to(DEVICE)
    embedder = Embedder(network, torch.float32)
    lanes = Lanes(embedder, PREPROCESS, BATCH_SIZE)
    batches = [torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8) for count in (4, 1, 4, 3) * 3]

    def embed(pixels: Tensor) -> Tensor:
        with lanes.free() as lane:
            return lane.embed(pixels)

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(embed, batches))
    for pixels, embedded in zip(batches, found, strict=True):
        expected = embedder.embed(normalise(pixels.to(DEVICE), PREPROCESS)).cpu()
        torch.testing.assert_close(embedded, expected, atol=1e-4, rtol=0)
