"""Batches of pixels on their way through the network; on a GPU, one is copied while another one is computed.

A lane takes one batch at a time. Where several threads have a lane each, a GPU computes one's batch while
the next one's pixels cross the bus and the last one's embeddings come back: two lanes are a double buffer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Protocol

import torch
from torch import Tensor

from agman.embedder import Embedder
from agman.transforms import Preprocess, normalise

NUM_GPU_LANES = 2
_WARM_UP = 3
"""Passes before a graph is captured, as PyTorch asks: libraries choose their kernels in them."""


class Lanes:
    """As many lanes as the embedder's device has a use for; threads wait for a free one."""

    def __init__(self, embedder: Embedder, preprocess: Preprocess, batch_size: int) -> None:
        """Make the lanes: one on a CPU, whose cores a second batch would only fight for.

        Args:
            embedder: on its device.
            preprocess: what the pixels were read with.
            batch_size: most pictures of a batch; on a GPU every batch costs what a full one costs.
        """
        self._free: SimpleQueue[Lane] = SimpleQueue()
        if embedder.device.type == "cuda":
            for _ in range(NUM_GPU_LANES):
                self._free.put(_GpuLane(embedder, preprocess, batch_size))
        else:
            self._free.put(_CpuLane(embedder, preprocess))

    @contextmanager
    def free(self) -> Iterator["Lane"]:
        """Wait for a lane and give it to this thread."""
        lane = self._free.get()
        try:
            yield lane
        finally:
            self._free.put(lane)


class Lane(Protocol):
    """The way of one batch at a time."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            pixels: [B, 3, S, S] uint8 in the host's memory or on the device, B at most the batch size.

        Returns:
            [B, A, D] float32 in the host's memory, unit norm.
        """
        ...


class _CpuLane:
    """The network, called."""

    def __init__(self, embedder: Embedder, preprocess: Preprocess) -> None:
        self._embedder, self._preprocess = embedder, preprocess

    def embed(self, pixels: Tensor) -> Tensor:
        return self._embedder.embed(normalise(pixels, self._preprocess))


class _GpuLane:
    """A stream with pinned memory at both ends and the network as a CUDA graph between them.

    A graph starts its 200 kernels at once: at a small batch a GPU computes them faster than a CPU can ask.
    """

    def __init__(self, embedder: Embedder, preprocess: Preprocess, batch_size: int) -> None:
        shape = (batch_size, 3, preprocess.image_size, preprocess.image_size)
        self._waiting = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=embedder.device)
        self._stream = torch.cuda.Stream(embedder.device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()

        def forward() -> Tensor:
            return embedder.embed(normalise(self._pixels, preprocess))

        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                forward()
        self._stream.synchronize()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._embedded = forward()
        self._found = torch.empty(self._embedded.shape, pin_memory=True)

    def embed(self, pixels: Tensor) -> Tensor:
        count = len(pixels)
        source = pixels if pixels.is_cuda else self._waiting[:count].copy_(pixels)
        self._stream.wait_stream(torch.cuda.current_stream(self._pixels.device))  # decodes where it is CUDA's
        with torch.cuda.stream(self._stream):
            self._pixels[:count].copy_(source, non_blocking=True)
            self._graph.replay()
            self._found[:count].copy_(self._embedded[:count], non_blocking=True)
            self._done.record()
        self._done.synchronize()  # lets other threads run meanwhile
        return self._found[:count].clone()
