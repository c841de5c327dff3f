"""The embedder, a training step and pictures on their way to it on one GPU, without Ray.

    python benchmarks/gpu.py

Floor: floating-point operations, counted by torch, over the GPU's rate of a large matrix product, measured
in the same run. Writes benchmarks/results/gpu-<name>.json; without a GPU it says so and measures nothing.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from agman.embedder import Embedder
from agman.model import ModelConfig, Network
from agman.networks import build_network
from agman.trainer import Trainer, TrainerConfig, TrainingBatch, TrainingStep
from benchmarks.gpu_pictures import measure_bus, measure_pictures
from benchmarks.reporting import console, in_turn, matmul_rate, report, synchronise

ATTRIBUTES = 8
IMAGE_SIZE = 224
EMBED_BATCH = 256
TRIPLETS = 16
"""The paper's batch: up to three pictures each."""
TRAIN_BATCH = 3 * TRIPLETS
LARGE_TRAIN_BATCH = 256
MATMUL_SIZES = (4096, 8192)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure and report, or say that there is no GPU."""
    if not torch.cuda.is_available():
        report("gpu", None, {}, {})
        console.print("no GPU found: nothing was measured")
        return
    device = torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    floor = {
        f"matmul_tflops_{name}": _best_rate(dtype, device) / 1e12
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    figures = {
        **_embedding(device, floor),
        **_training(device, floor),
        **measure_bus(device),
        **measure_pictures(device),
    }
    table = Table(title=torch.cuda.get_device_name())
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in {**floor, **figures}.items():
        table.add_row(name, f"{value:,.3f}" if value < 10 else f"{value:,.0f}")
    hardware = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    report("gpu", table, figures, floor, RESULTS / f"gpu-{hardware}.json")


def _best_rate(dtype: torch.dtype, device: torch.device) -> float:
    measure = matmul_rate(dtype, device, MATMUL_SIZES)
    return max(measure() for _ in range(5))


def _embedding(device: torch.device, floor: dict[str, float]) -> dict[str, float]:
    """Images per second of the folded embedder, in both precisions, beside the plain network."""
    network = _network().to(device)
    images = torch.randn(EMBED_BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    embedders = {
        "float32": Embedder(network, torch.float32),
        "bfloat16": Embedder(network, torch.bfloat16),
    }
    seconds = in_turn(
        {
            "plain": _waiting(lambda: _once_per_attribute(network, images), device),
            **{name: _waiting(partial(e.embed, images), device) for name, e in embedders.items()},
        }
    )
    flops = _flops(lambda: embedders["float32"].embed(images[:2])) / 2
    rates = {name: EMBED_BATCH / seconds[name] for name in seconds}
    shares = {
        name: rate * flops / 1e12 / floor[f"matmul_tflops_{name.split('_')[0]}"]
        for name, rate in rates.items()
        if name != "plain"
    }
    cosine = (embedders["bfloat16"].embed(images[:8]) * embedders["float32"].embed(images[:8])).sum(-1)
    return {
        **{f"embed_images_per_s_{name}": rate for name, rate in rates.items()},
        **{f"embed_share_of_peak_{name}": share for name, share in shares.items()},
        "embed_ratio_float32": seconds["plain"] / seconds["float32"],
        "embed_ratio_bfloat16": seconds["plain"] / seconds["bfloat16"],
        "embed_min_cosine_bfloat16": float(cosine.min()),
    }


def _training(device: torch.device, floor: dict[str, float]) -> dict[str, float]:
    """Images per second of a training step, and its share of the peak."""
    figures = {}
    for name, batch_size, precision in (
        (f"batch_{TRAIN_BATCH}_float32", TRAIN_BATCH, "float32"),
        (f"batch_{TRAIN_BATCH}_bfloat16", TRAIN_BATCH, "bfloat16"),
        (f"batch_{LARGE_TRAIN_BATCH}_bfloat16", LARGE_TRAIN_BATCH, "bfloat16"),
    ):
        config = TrainerConfig(sampling="batch", precision=precision)  # type: ignore[arg-type]
        module = TrainingStep(_network().to(device), config)
        trainer, batch = Trainer(module, config, total_steps=1), _batch(batch_size, device)
        flops = _flops(partial(trainer.step, batch))
        step = _waiting(partial(trainer.step, batch), device)
        seconds = in_turn({"step": step})["step"]
        figures[f"train_images_per_s_{name}"] = batch_size / seconds
        peak = floor[f"matmul_tflops_{precision}"]
        figures[f"train_share_of_peak_{name}"] = flops / seconds / 1e12 / peak
    return figures


@torch.inference_mode()
def _once_per_attribute(network: Network, images: torch.Tensor) -> None:
    for attribute in range(ATTRIBUTES):
        network(images, torch.full((len(images),), attribute, device=images.device))


def _network() -> Network:
    torch.manual_seed(0)
    return build_network(ModelConfig(), ATTRIBUTES).eval()


def _batch(size: int, device: torch.device) -> TrainingBatch:
    """Make a batch whose pictures are labelled with one attribute each, two values in turn."""
    index = torch.arange(size, device=device)
    targets = torch.zeros(size, ATTRIBUTES, device=device)
    targets[index, index % ATTRIBUTES] = 1.0
    return TrainingBatch(
        images=torch.randn(size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device),
        image_index=index,
        attribute=index % ATTRIBUTES,
        targets=targets,
        shown=torch.stack([index, index // ATTRIBUTES % 2], dim=1),
    )


def _waiting(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return the work with a wait for the device at its end."""

    def run() -> None:
        work()
        synchronise(device)

    return run


def _flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
