"""JPEGs decoded by an NVIDIA GPU: what models are shown whose `Preprocess.decoder` is "nvjpeg".

nvJPEG and libjpeg-turbo disagree on how a colour spreads over the pixels that share it, by less than half a
level in the mean, so embeddings differ in their third digit and such a model is another model. What the GPU
does not take (other formats, EXIF that may turn a picture, CMYK, extreme strips) and what it refuses goes by
the reading rule of agman.images, which also judges what is broken: the same pictures are refused by both.
"""

import struct
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from agman.errors import BadSample
from agman.images import MAX_PIXELS, ImageHeader, probe
from agman.transforms import Preprocess, read_pixels
from agman.vision import ImageReadMode, decode_jpeg

MAX_ASPECT = 4
"""Longer pictures are cropped before they are scaled, which only the other rule does."""
MAX_DECODED_PIXELS = 64 * 2**20
"""At once: 3 bytes of each are decoded, 12 scaled."""
# Both are said once a process. TorchCodec, the successor, is one more package; torchvision is here for its
# networks. And nobody writes to the files' bytes, whose copying would cost a third of the decoder's rate.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision")
warnings.filterwarnings("ignore", "The given buffer is not writable")
_SEGMENT = struct.Struct(">BBH")
_FRAMES, _SCAN, _EXIF, _ADOBE = range(0xC0, 0xC3), 0xDA, 0xE1, 0xEE


def read_on_gpu(
    encoded: Sequence[bytes], preprocess: Preprocess, device: torch.device, *, max_pixels: int = MAX_PIXELS
) -> list[Tensor | BadSample]:
    """Decode image files to the network's squares.

    Args:
        encoded: whole files.
        preprocess: gives the side S.
        device: a CUDA device; on a CPU libjpeg-turbo decodes.
        max_pixels: largest width x height accepted; judged before decoding.

    Returns:
        For each file [3, S, S] uint8 on the device, or why it must be refused.
    """
    found: dict[int, Tensor | BadSample] = {}
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, each in enumerate(encoded):
        try:
            header = probe(each, max_pixels=max_pixels)
        except BadSample as error:
            found[position] = error
            continue
        if _is_for_gpu(each, header, preprocess):
            by_size[header.width, header.height].append(position)
    for (width, height), positions in by_size.items():
        most = max(1, MAX_DECODED_PIXELS // (width * height))
        for start in range(0, len(positions), most):
            group = positions[start : start + most]
            try:
                squares = _squares([encoded[position] for position in group], preprocess.image_size, device)
            except RuntimeError:  # torchvision's for whatever nvJPEG says of any of them
                continue
            found.update(zip(group, squares, strict=True))
    return [
        found[position] if position in found else _read_one(each, preprocess, device, max_pixels)
        for position, each in enumerate(encoded)
    ]


def _read_one(
    encoded: bytes, preprocess: Preprocess, device: torch.device, max_pixels: int
) -> Tensor | BadSample:
    try:
        return read_pixels(encoded, preprocess, max_pixels=max_pixels).to(device)
    except BadSample as error:
        return error


def _squares(encoded: Sequence[bytes], size: int, device: torch.device) -> Tensor:
    """Decode pictures of one size, bring the short side to `size`, cut the centre: [N, 3, S, S] uint8."""
    buffers = [torch.frombuffer(each, dtype=torch.uint8) for each in encoded]
    pictures = torch.stack(decode_jpeg(buffers, mode=ImageReadMode.RGB, device=device)).float()
    height, width = pictures.shape[-2:]
    scaled = [max(size, int(size * side / min(height, width))) for side in (height, width)]
    resized = functional.interpolate(pictures, size=scaled, mode="bilinear", antialias=True)
    top, left = (round((side - size) / 2) for side in scaled)
    return resized[:, :, top : top + size, left : left + size].round_().clamp_(0, 255).to(torch.uint8)


def _is_for_gpu(encoded: bytes, header: ImageHeader, preprocess: Preprocess) -> bool:
    short, long = sorted((header.width, header.height))
    is_packed = not preprocess.packed_side or short <= preprocess.packed_side
    return header.format == "JPEG" and is_packed and long <= MAX_ASPECT * short and _is_usual(encoded)


def _is_usual(encoded: bytes) -> bool:
    """Tell whether a JPEG is grey or YCbCr and nothing turns it."""
    for marker, segment in _segments(encoded):
        if marker in _FRAMES:
            return len(segment) > 5 and segment[5] in (1, 3)
        # Adobe's marker may say that the three colours are RGB.
        if marker == _ADOBE or (marker == _EXIF and segment.startswith(b"Exif")):
            return False
    return False


def _segments(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of what stands before a JPEG's scan, up to the first oddity."""
    position = 2
    while position + 4 <= len(encoded):
        fill, marker, length = _SEGMENT.unpack_from(encoded, position)
        if fill != 0xFF or length < 2 or marker == _SCAN:
            return
        yield marker, encoded[position + 4 : position + 2 + length]
        position += 2 + length
