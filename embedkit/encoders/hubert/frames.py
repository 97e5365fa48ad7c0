"""How many frames and samples the convolutions of HuBERT-like encoders give and take."""

from __future__ import annotations

from collections.abc import Sequence

# The convolutions see a multiple of so many frames: on a CPU oneDNN compiles its kernels anew for each shape, which
# costs more in bf16 than a clip itself, and there are few shapes so. The layers after them see `padded` ones.
FRAME_MULTIPLE = 8


def round_up(number: int, factor: int) -> int:
    """The next one.

    >>> round_up(7, 8), round_up(8, 8)
    (8, 8)
    """
    return -(-number // factor) * factor


def count_samples(frames: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """The fewest samples that give so many frames.

    >>> count_samples(1, [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
    400
    """
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        frames = (frames - 1) * stride + kernel
    return frames
