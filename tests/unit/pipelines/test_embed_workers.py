"""How many workers embed and on what, by what is asked for and what the cluster has."""

import os
import platform
import subprocess
import sys

import pytest

from agman.errors import InvalidInput
from pipelines.embed_workers import KEEP_MEMORY, Found, count_workers, uses_gpu
from pipelines.embedding import EmbedOptions, choose_device


@pytest.mark.parametrize(
    ("options", "found", "count", "use_gpu"),
    [
        (EmbedOptions(), Found(8, 0, False), 8, False),
        (EmbedOptions(threads=3), Found(8, 0, False), 2, False),
        (EmbedOptions(decoders=2), Found(8, 0, False), 6, False),
        (EmbedOptions(decoders=20), Found(8, 0, False), 4, False),
        (EmbedOptions(), Found(8, 2, False), 2, True),
        (EmbedOptions(accelerator="cpu"), Found(8, 2, False), 8, False),
        (EmbedOptions(num_workers=3), Found(8, 0, False), 3, False),
        # A cluster brings what is asked for.
        (EmbedOptions(accelerator="gpu", num_workers=4, threads=4), Found(1, 0, True), 4, True),
        (EmbedOptions(accelerator="gpu"), Found(1, 0, True), 1, True),
        (EmbedOptions(accelerator="gpu"), Found(64, 3, True), 3, True),
        (EmbedOptions(num_workers=4), Found(1, 0, True), 4, False),
        (EmbedOptions(num_workers=4), Found(8, 2, True), 4, True),
    ],
)
def test_workers_follow_from_what_is_asked_and_found(
    options: EmbedOptions, found: Found, count: int, use_gpu: bool
) -> None:
    assert count_workers(options, found) == count
    assert uses_gpu(options, found.num_gpus) == use_gpu


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (EmbedOptions(num_workers=3), Found(2, 0, False)),
        (EmbedOptions(threads=4), Found(2, 0, False)),
        (EmbedOptions(num_workers=2, decoders=1), Found(2, 0, False)),
        (EmbedOptions(accelerator="gpu"), Found(2, 0, False)),
        (EmbedOptions(num_workers=2), Found(8, 1, False)),
    ],
)
def test_what_one_machine_never_has_is_refused(options: EmbedOptions, found: Found) -> None:
    with pytest.raises(InvalidInput, match=f"found {found.num_cpus} CPUs and {found.num_gpus} GPUs"):
        count_workers(options, found)


def test_a_gpu_that_is_asked_for_is_never_replaced_by_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (choose_device("auto"), choose_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(InvalidInput, match="expected PyTorch to find a GPU"):
        choose_device("gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (choose_device("auto"), choose_device("cpu"), choose_device("gpu")) == ("cuda", "cpu", "cuda")


PAGES = """
import resource
from threading import Thread

def work():
    for _ in range(20):
        bytearray(50 << 20)

def faults(function):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = Thread(target=function)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(work)
print(faults(work))
"""
"""Tensors of a layer, in a thread, as a worker's model makes them; says how many pages the system cleared."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc reads the variables")
def test_a_process_that_embeds_takes_its_memory_from_the_system_once() -> None:
    def cleared(variables: dict[str, str]) -> int:
        told = subprocess.run(
            [sys.executable, "-c", PAGES], env=variables, capture_output=True, text=True, check=True
        )
        return int(told.stdout)

    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    assert cleared(plain) > 10_000
    assert cleared({**plain, **KEEP_MEMORY["env_vars"]}) < 100
