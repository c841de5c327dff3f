"""What is used of torchvision, imported without PyTorch's compiler.

torchvision asks `torch._dynamo` one question, in an operator of detection networks, and imports it for that:
3 of the 6 s of processor time that a process takes until it can build a network, and every worker of a night
is one. Whoever compiles imports it later all the same.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_COMPILER = "torch._dynamo"


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Answer torchvision's import in the compiler's place for the time of a `with`."""
    if _COMPILER in sys.modules:
        yield
        return
    stand_ins = {name: ModuleType(name) for name in (_COMPILER, f"{_COMPILER}.utils")}
    stand_ins[f"{_COMPILER}.utils"].__dict__["is_compile_supported"] = _is_compile_supported
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _is_compile_supported(device: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device))


with _without_compiler():
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.models import get_model
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

__all__ = ["BasicBlock", "Bottleneck", "ImageReadMode", "ResNet", "decode_jpeg", "get_model"]
