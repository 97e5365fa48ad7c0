"""Frames and samples: what the convolutions of HuBERT-like encoders make of a clip's length."""

from __future__ import annotations

from collections.abc import Sequence

# The convolutions are given a multiple of so many frames. On a CPU oneDNN compiles its kernels anew for each shape, and
# in bf16 that takes longer than a clip; so there are few shapes. The layers after them are given `round_up_frames`.
FRAME_MULTIPLE = 8


def round_up(number: int, factor: int) -> int:
    """The smallest multiple of a factor that is not below a number.

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
