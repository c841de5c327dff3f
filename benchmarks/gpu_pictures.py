"""Pictures on their way to and through one GPU: over the bus, through the network's lanes, from JPEG bytes.

Without Ray: threads stand for the line's workers. Decoding by the reading rule runs on all cores; the GPU's
own decoder is measured beside it, with how far it moves the embeddings.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.io import decode_jpeg

from agman.embedder import Embedder
from agman.lanes import NUM_GPU_LANES, Lanes
from agman.model import ModelConfig
from agman.nvjpeg import read_on_gpu
from agman.transforms import Preprocess, normalise, read_pixels
from benchmarks.photographs import write_photographs
from benchmarks.random_model import random_network
from benchmarks.reporting import in_turn, synchronise

ATTRIBUTES = 8
NUM_JPEGS = 512
NUM_COMPARED = 64
COPIED_BYTES = 256 * 2**20
BATCHES_A_ROUND = 24
BATCH_SIZES = (32, 256)
COPIES = 16
"""Of the JPEGs, in a round from bytes to embeddings."""
NVJPEG = Preprocess(decoder="nvjpeg")
_NUM_CORES = os.cpu_count() or 1


def measure_bus(device: torch.device) -> dict[str, float]:
    """Return GB/s from the host's memory to the GPU, pinned and not."""
    there = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device)
    plain = torch.randint(0, 256, (COPIED_BYTES,), dtype=torch.uint8)
    pinned = plain.pin_memory()
    seconds = in_turn(
        {
            name: _waiting(partial(there.copy_, source, non_blocking=True), device)
            for name, source in (("pageable", plain), ("pinned", pinned))
        }
    )
    return {f"bus_gb_per_s_{name}": COPIED_BYTES / taken / 1e9 for name, taken in seconds.items()}


def measure_pictures(device: torch.device) -> dict[str, float]:
    """Return images/s and cosines of a 224 pixel ResNet-50 with 8 attributes."""
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        paths = write_photographs(Path(folder) / "pictures", NUM_JPEGS)
        encoded = [path.read_bytes() for path in paths]
    rules = {"oversampling_2": Preprocess(), "oversampling_1": Preprocess(oversampling=1.0)}
    pixels = torch.stack([read_pixels(each, rules["oversampling_2"]) for each in encoded[: max(BATCH_SIZES)]])
    preprocess = rules["oversampling_2"]
    network = random_network(
        ModelConfig(), ATTRIBUTES, normalise(pixels[:NUM_COMPARED].to(device), preprocess)
    )
    figures = {
        **_decoding(encoded, rules, device),
        **_moved(Embedder(network, torch.float32), rules, encoded, pixels, device),
    }
    for size in BATCH_SIZES:
        embedders = {
            "eager": Embedder(network, torch.bfloat16),
            "compiled": Embedder(network, torch.bfloat16, compiled=True),
        }
        figures |= _lanes(embedders, preprocess, pixels[:size], device)
        figures |= _from_jpegs(embedders["compiled"], encoded, size)
    return figures


def _lanes(
    embedders: dict[str, Embedder], preprocess: Preprocess, batch: Tensor, device: torch.device
) -> dict[str, float]:
    """Compare pixels of the host through the lanes with the bare network on pixels that are there."""
    batches = [batch.clone() for _ in range(BATCHES_A_ROUND)]
    inputs = normalise(batch.to(device), preprocess)
    sides: dict[str, Callable[[], object]] = {}
    for name, embedder in embedders.items():
        lanes = Lanes(embedder, preprocess, len(batch))
        embed = partial(embedder.embed, inputs)
        sides[f"bare_{name}"] = _waiting(partial(_repeat, embed), device)
        sides[f"bare_{name}_graph"] = _waiting(partial(_repeat, _captured(embed).replay), device)
        sides[f"no_lanes_{name}"] = partial(_plainly, embedder, preprocess, batches)
        sides[f"one_lane_{name}"] = partial(_through, lanes, batches, 1)
        sides[f"lanes_{name}"] = partial(_through, lanes, batches, NUM_GPU_LANES)
    seconds = in_turn(sides)
    rates = {name: len(batch) * BATCHES_A_ROUND / taken for name, taken in seconds.items()}
    bare = max(rate for name, rate in rates.items() if name.startswith("bare"))
    ours = max(rates["lanes_eager"], rates["lanes_compiled"])
    return {
        **{f"images_per_s_{name}_batch_{len(batch)}": rate for name, rate in rates.items()},
        f"lanes_share_of_bare_batch_{len(batch)}": ours / bare,
    }


def _decoding(
    encoded: Sequence[bytes], rules: dict[str, Preprocess], device: torch.device
) -> dict[str, float]:
    """Return images/s from JPEGs to squares: by the reading rule in a process a core, and on the GPU."""
    share = [encoded[start::_NUM_CORES] for start in range(_NUM_CORES)]
    sides: dict[str, Callable[[], object]] = {}
    with ProcessPoolExecutor(_NUM_CORES, get_context("spawn"), torch.set_num_threads, (1,)) as processes:
        for name, rule in rules.items():
            read = partial(_read_all, preprocess=rule)
            sides[f"all_cores_{name}"] = partial(_in_processes, processes, read, share)
            sides[f"one_core_{name}"] = partial(read, share[0])
        sides["nvjpeg"] = _waiting(lambda: decode_jpeg(_buffers(encoded), device=device), device)
        sides["nvjpeg_squares"] = _waiting(lambda: read_on_gpu(encoded, NVJPEG, device), device)
        seconds = in_turn(sides)
    counts = {name: len(share[0]) if name.startswith("one_core") else NUM_JPEGS for name in seconds}
    return {f"decode_images_per_s_{name}": counts[name] / taken for name, taken in seconds.items()}


def _in_processes(
    processes: ProcessPoolExecutor, work: Callable[[Any], object], shares: Sequence[Any]
) -> None:
    list(processes.map(work, shares))


def _read_all(encoded: Sequence[bytes], preprocess: Preprocess) -> None:
    for each in encoded:
        read_pixels(each, preprocess)


def _from_jpegs(embedder: Embedder, encoded: Sequence[bytes], size: int) -> dict[str, float]:
    """Return images/s from JPEG bytes to embeddings, all of it on the GPU."""
    lanes = Lanes(embedder, NVJPEG, size)
    batches = [encoded[start : start + size] for start in range(0, len(encoded), size)] * COPIES

    def work(batch: Sequence[bytes]) -> Tensor:
        pixels = _squares(batch, embedder.device)
        with lanes.free() as lane:
            return lane.embed(pixels)

    seconds = in_turn({"nvjpeg": lambda: _in_threads(work, batches)})
    return {f"images_per_s_from_jpeg_batch_{size}": COPIES * NUM_JPEGS / seconds["nvjpeg"]}


def _moved(
    embedder: Embedder,
    rules: dict[str, Preprocess],
    encoded: Sequence[bytes],
    pixels: Tensor,
    device: torch.device,
) -> dict[str, float]:
    """Return how far other ways of decoding move an embedding: lowest and mean cosine."""
    compared = encoded[:NUM_COMPARED]
    by_rule = embedder.embed(normalise(pixels[:NUM_COMPARED].to(device), NVJPEG))
    others = {
        "oversampling_1": torch.stack([read_pixels(each, rules["oversampling_1"]) for each in compared]),
        "nvjpeg": _squares(compared, device),
    }
    figures: dict[str, Tensor] = {}
    for name, other in others.items():
        cosine = (embedder.embed(normalise(other.to(device), NVJPEG)) * by_rule).sum(-1)
        figures |= {f"min_cosine_{name}": cosine.min(), f"mean_cosine_{name}": cosine.mean()}
    return {name: float(value) for name, value in figures.items()}


def _squares(encoded: Sequence[bytes], device: torch.device) -> Tensor:
    return torch.stack([each for each in read_on_gpu(encoded, NVJPEG, device) if isinstance(each, Tensor)])


def _buffers(encoded: Iterable[bytes]) -> list[Tensor]:
    return [torch.frombuffer(each, dtype=torch.uint8) for each in encoded]


def _through(lanes: Lanes, batches: Sequence[Tensor], num_threads: int) -> None:
    def embed(batch: Tensor) -> Tensor:
        with lanes.free() as lane:
            return lane.embed(batch)

    _in_threads(embed, batches, num_threads)


def _in_threads(
    work: Callable[[Any], object], batches: Iterable[Any], num_threads: int = NUM_GPU_LANES
) -> None:
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(work, batches))


def _plainly(embedder: Embedder, preprocess: Preprocess, batches: Sequence[Tensor]) -> None:
    for batch in batches:
        embedder.embed(normalise(batch.to(embedder.device), preprocess)).cpu()


def _repeat(work: Callable[[], object]) -> None:
    for _ in range(BATCHES_A_ROUND):
        work()


def _captured(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        work()
        work()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph


def _waiting(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return the work with a wait for the device at its end."""

    def run() -> None:
        work()
        synchronise(device)

    return run
