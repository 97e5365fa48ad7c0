"""In which type an encoder's products are computed on this machine."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def has_onednn(device: str) -> bool:
    """Whether the functions for oneDNN's products can be used on a device ("cpu" or "cuda")."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def choose_arithmetic(device: str, dtype: torch.dtype) -> torch.dtype:
    """The type in which products in dtype are computed: fp32 instead of bf16 where oneDNN has no bf16 on the processor.

    It needs AVX-512 (or AVX-NE-CONVERT, or Arm's bf16), and cannot pack a weight in bf16 without; torch's own products
    in bf16 take several times as long as fp32 there. The function that torch has for this question is not public.
    """
    if dtype != torch.bfloat16 or device != "cpu":
        return dtype
    supports_bf16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return dtype if has_onednn(device) and supports_bf16() else torch.float32


def round_weights(weights: Iterable[torch.Tensor], dtype: torch.dtype, arithmetic: torch.dtype) -> None:
    """Round weights to dtype, in place, where they are computed with in another type; else leave them."""
    if dtype != arithmetic:
        for weight in weights:
            weight.data = weight.data.to(dtype).to(arithmetic)
