"""The benchmark of a GPU says where there is none."""

import pytest
import torch

from benchmarks import gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to measure")
def test_without_a_gpu_the_script_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main()
    assert capsys.readouterr().out.strip().splitlines()[-1] == "no GPU found: nothing was measured"
