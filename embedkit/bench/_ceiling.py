"""An encoder against the processor's ceiling: the bare matrix products of the same clip."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from embedkit.audio import Wave
from embedkit.bench._material import Size, choose_config
from embedkit.bench._measure import make_ratio_row, time_in_turns
from embedkit.bench._page import Row

if TYPE_CHECKING:
    import torch

    from embedkit.encoders import Spec
    from embedkit.encoders._random_weights import HubertConfig


def find_product_type(precision: str) -> torch.dtype:
    """The type in which the encoder computes its products on this processor. precision: "bf16" or "fp32"."""
    import torch

    from embedkit.encoders import _arithmetic

    return _arithmetic.choose_arithmetic("cpu", torch.bfloat16 if precision == "bf16" else torch.float32)


def note_arithmetic(precision: str) -> str:
    """The note beside figures of bf16 on a processor that does not multiply in bf16; "" beside all others."""
    if precision != "bf16" or str(find_product_type(precision)) == "torch.bfloat16":
        return ""
    return "this processor does not multiply in bf16: computed in fp32, with the weights rounded to bf16"


def list_matrix_products(config: HubertConfig, samples: int) -> list[tuple[int, int, int]]:
    """The matrix products by weights of a clip, each as (rows, inputs, outputs): convolutions and linear layers.

    Attention's own products (1 to 2 %) are left out.
    """
    frames, channels, width = samples, 1, config["hidden_size"]
    shapes: list[tuple[int, int, int]] = []
    for outputs, kernel, stride in zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True):
        frames = (frames - kernel) // stride + 1
        shapes.append((frames, channels * kernel, outputs))
        channels = outputs
    shapes.append((frames, channels, width))
    group = width // config["num_conv_pos_embedding_groups"]
    shapes += [(frames, group * config["num_conv_pos_embeddings"], group)] * config["num_conv_pos_embedding_groups"]
    inner = config["intermediate_size"]
    layer = [*[(frames, width, width)] * 4, (frames, width, inner), (frames, inner, width)]
    return shapes + layer * config["num_hidden_layers"]


def measure_against_ceiling(spec: Spec, clip: Wave, size: Size) -> list[Row]:
    """The time of the bare products, with weights packed by oneDNN, as a share of the encoder's."""
    import torch

    from embedkit import encoders

    shapes = list_matrix_products(choose_config(size), len(clip))
    work = 2 * sum(m * k * n for m, k, n in shapes) / 1e9
    rows = []
    for precision, floor, aim in (("bf16", 75, 85), ("fp32", 70, 75)):
        dtype, note = find_product_type(precision), note_arithmetic(precision)
        products = [
            partial(pack_weight(torch.randn(n, k).to(dtype), m), torch.randn(m, k).to(dtype)) for m, k, n in shapes
        ]
        encoder = encoders.load(spec, precision)
        calls: dict[str, Callable[[], object]] = {
            "encoder": partial(encoder.pool, clip),
            "products": partial(_run_products, products),
        }
        time_in_turns(calls, 1)  # kernels are compiled here
        timings = time_in_turns(calls, 2 * size.repeats)
        ceiling = make_ratio_row(
            f"ceiling, {precision}", [work] * 2 * size.repeats, timings["products"], unit="GFLOP/s a core", note=note
        )
        share = make_ratio_row(
            f"{precision}: share of the ceiling", timings["products"], timings["encoder"], 100,
            floor=floor, aim=aim, unit="%", note=note,
        )  # fmt: skip
        rows += [ceiling, share]
    return rows


def _run_products(products: list[partial[torch.Tensor]]) -> None:
    import torch

    with torch.inference_mode():
        for multiply in products:
            multiply()


def pack_weight(weight: torch.Tensor, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """x [rows, in] -> x @ weight.T by oneDNN, with the weight [out, in] packed for it; by torch where there is none."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return lambda x: torch.nn.functional.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
        return product

    return multiply
