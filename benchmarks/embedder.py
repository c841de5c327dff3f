"""The folded embedder against the network run once per attribute, on one batch of decoded pictures.

    python benchmarks/embedder.py

Floor: floating-point operations, counted by torch, over the rate of a square matrix product on this machine,
measured in the same run. bfloat16 is fast only where the processor multiplies it; elsewhere it is emulated,
measured on a smaller batch, and no gain may be expected.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agman.embedder import Embedder, native_dtype
from agman.model import ModelConfig, Network
from agman.networks import build_network
from benchmarks.reporting import console, in_turn, matmul_rate, report

ATTRIBUTES = 8
FEW, MANY = 1, 32
EMULATED_BATCH = 4
MATMUL_SIZES = (1024, 2048)
EMULATED_SIZES = (256,)
"""An emulated product of 2048 takes half a minute."""
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is measured."""

    batch: int = 32
    """Pictures a forward pass."""
    image_size: int = 224
    """Side in pixels."""
    threads: int = 2
    """CPU threads."""
    rounds: int = 5
    """Of which the median is taken, after one to warm up."""
    trunk: str = "resnet50"
    """torchvision's name."""
    results: Path | None = None
    """File for the figures."""


def main(options: Options) -> None:
    """Measure and report."""
    torch.set_num_threads(options.threads)
    images = torch.randn(options.batch, 3, options.image_size, options.image_size)
    network = _network(options, ATTRIBUTES)
    is_native = native_dtype(CPU) is torch.bfloat16
    few_images = images if is_native else images[:EMULATED_BATCH]
    folded = {count: Embedder(_network(options, count), torch.float32) for count in (FEW, ATTRIBUTES, MANY)}
    half = Embedder(network, torch.bfloat16)
    rates: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}

    def measure_rates() -> None:
        for dtype, found in rates.items():
            is_emulated = dtype is torch.bfloat16 and not is_native
            found.append(matmul_rate(dtype, CPU, EMULATED_SIZES if is_emulated else MATMUL_SIZES)())

    seconds = in_turn(
        {
            "plain": partial(once_per_attribute, network, images),
            **{f"folded {count}": partial(embedder.embed, images) for count, embedder in folded.items()},
            "folded bfloat16": partial(half.embed, few_images),
            "rates": measure_rates,
        },
        options.rounds,
    )
    rate = {dtype: statistics.median(found) for dtype, found in rates.items()}
    plain_flops = _flops(lambda: once_per_attribute(network, images[:1])) * options.batch
    folded_flops = _flops(lambda: folded[ATTRIBUTES].embed(images[:1])) * options.batch
    half_seconds = seconds["folded bfloat16"] * len(images) / len(few_images)
    eight = seconds[f"folded {ATTRIBUTES}"]
    figures = {
        "ratio_float32": seconds["plain"] / eight,
        "ratio_bfloat16": seconds["plain"] / half_seconds,
        "share_of_matmul_float32": folded_flops / eight / rate[torch.float32],
        "share_of_matmul_bfloat16": folded_flops / half_seconds / rate[torch.bfloat16],
        "cost_32_over_1": seconds[f"folded {MANY}"] / seconds[f"folded {FEW}"],
        "cost_8_over_1": eight / seconds[f"folded {FEW}"],
        "images_per_s_float32": options.batch / eight,
        "images_per_s_bfloat16": options.batch / half_seconds,
        "bfloat16_is_native": float(is_native),
        **_agreement(network, images[:2]),
    }
    floor = {
        "plain_gflop_per_image": plain_flops / options.batch / 1e9,
        "folded_gflop_per_image": folded_flops / options.batch / 1e9,
        "matmul_gflops_float32": rate[torch.float32] / 1e9,
        "matmul_gflops_bfloat16": rate[torch.bfloat16] / 1e9,
    }
    if not is_native:
        console.print("this processor has no bfloat16 instructions: its bfloat16 figures are of an emulation")
    report(
        "embedder", _table(options, figures, floor, seconds, half_seconds), figures, floor, options.results
    )


@torch.inference_mode()
def once_per_attribute(network: Network, images: Tensor) -> list[Tensor]:
    """Embed as the published code does: a whole forward pass for each attribute."""
    return [
        network(images, torch.full((len(images),), attribute)).embedding
        for attribute in range(network.num_attributes)
    ]


def _network(options: Options, num_attributes: int) -> Network:
    torch.manual_seed(0)
    return build_network(ModelConfig(trunk=options.trunk), num_attributes).eval()


def _flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _agreement(network: Network, images: Tensor) -> dict[str, float]:
    plain = torch.stack(once_per_attribute(network, images), dim=1)
    exact = Embedder(network, torch.float32).embed(images)
    half = Embedder(network, torch.bfloat16).embed(images)
    return {
        "max_difference_float32": float((plain - exact).abs().max()),
        "min_cosine_bfloat16": float((plain * half).sum(-1).min()),
    }


def _table(
    options: Options,
    figures: dict[str, float],
    floor: dict[str, float],
    seconds: dict[str, float],
    half: float,
) -> Table:
    table = Table(
        title=f"{options.trunk}, {options.image_size} px, {ATTRIBUTES} attributes, batch {options.batch}"
    )
    for name in ("", "s a batch", "images/s", "times plain", "share of matmul rate"):
        table.add_column(name, justify="left" if not name else "right")
    share = floor["plain_gflop_per_image"] * options.batch / seconds["plain"] / floor["matmul_gflops_float32"]
    rows = (
        ("plain, once per attribute", seconds["plain"], share),
        ("folded, float32", seconds[f"folded {ATTRIBUTES}"], figures["share_of_matmul_float32"]),
        ("folded, bfloat16", half, figures["share_of_matmul_bfloat16"]),
    )
    for name, taken, part in rows:
        table.add_row(
            name,
            f"{taken:.2f}",
            f"{options.batch / taken:.1f}",
            f"{seconds['plain'] / taken:.1f}",
            f"{part:.0%}",
        )
    for count in (FEW, MANY):
        taken = seconds[f"folded {count}"]
        table.add_row(
            f"folded, float32, {count} attributes", f"{taken:.2f}", f"{options.batch / taken:.1f}", "", ""
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
