"""The convolutions of the HuBERT family as matrix products on [frame, channel]; the rest stays transformers' own.

transformers keeps sound as [channel, frame], which suits neither the matrix product that a convolution is nor AMX. With
channels last the samples under a kernel lie side by side in memory, so that most of a convolution needs no copy.
Batching never changes a feature: the first layer's group norm, the only part that looks at a whole clip, sees each
clip's own length. The tests hold every part to transformers' own values.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lay_out(model: Any, device: str, dtype: torch.dtype) -> Any:
    """transformers' model (fp32) on device and in dtype, its convolutions and linear layers laid out anew."""
    model.feature_extractor = FeatureExtractor(model.feature_extractor, device, dtype)
    positional = getattr(model.encoder.pos_conv_embed, "conv", None)
    if positional is not None and device == "cpu":
        model.encoder.pos_conv_embed.conv = PositionalConvolution(positional)
    for module in model.modules():
        if isinstance(module, nn.Linear):  # [in, out] in memory: up to three times as fast in bf16
            module.weight = _frozen(module.weight.t().contiguous().t())
    return model.to(device=device, dtype=dtype)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


class FeatureExtractor(nn.Module):
    """Sound [batch, samples] to [batch, channel, frame], for clips of any lengths.

    `lengths` [batch] (samples of each clip; the rest of its row is padding) is set before each call, because
    transformers hands an extractor nothing but the sound. Frames that reach into the padding mean nothing.
    """

    def __init__(self, original: Any, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.lengths = torch.empty(0)
        self.dtype = dtype
        layers = list(original.conv_layers)
        norms_clip = isinstance(getattr(layers[0], "layer_norm", None), nn.GroupNorm)
        self.first = FirstConvolution(layers.pop(0), device) if norms_clip else None
        self.rest = nn.Sequential(*map(Convolution, layers))

    def forward(self, signal: Tensor) -> Tensor:
        hidden = self.first(signal, self.lengths, self.dtype) if self.first else signal[:, :, None].to(self.dtype)
        return cast(Tensor, self.rest(hidden)).transpose(1, 2)


class FirstConvolution(nn.Module):
    """Sound [batch, samples] to [batch, frame, channel]: the first convolution, its group norm and activation.

    Over the windows x of a clip, channel c is w_c . x: its mean is w_c . E[x], its variance w_c' Cov(x) w_c. So ten
    means and a 10 x 10 matrix give the statistics of all 512 channels, and the norm folds into one matrix product with
    a weight and bias of the clip's own. In float64, as sound with an offset makes a variance a small difference.
    """

    def __init__(self, layer: Any, device: str) -> None:
        super().__init__()
        (self.kernel,), (self.stride,) = layer.conv.kernel_size, layer.conv.stride
        # Plain attributes, which model.to(bfloat16) leaves alone. A bias of the convolution is taken out by the norm.
        self.weight = layer.conv.weight.detach()[:, 0].t().to(device, torch.float64)  # [kernel, channel]
        self.gain = layer.layer_norm.weight.detach().to(device, torch.float64)
        self.shift = layer.layer_norm.bias.detach().to(device, torch.float64)
        self.eps = layer.layer_norm.eps
        self.activation = layer.activation

    def forward(self, signal: Tensor, lengths: Tensor, dtype: torch.dtype) -> Tensor:
        windows = signal.unfold(-1, self.kernel, self.stride).contiguous()  # [batch, frame, kernel]
        frames = torch.div(lengths - self.kernel, self.stride, rounding_mode="floor") + 1
        own = torch.arange(windows.shape[1], device=signal.device) < frames[:, None]
        weight, bias = self.folded(windows.double(), own[:, :, None].double())
        return activated(self.activation, torch.baddbmm(bias.to(dtype), windows.to(dtype), weight.to(dtype)))

    def folded(self, windows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [batch, kernel, channel] and bias [batch, 1, channel] that hold the norm over a clip's own windows."""
        count = own.sum(1, keepdim=True)
        mean = (windows * own).sum(1, keepdim=True) / count
        centred = (windows - mean) * own
        covariance = centred.transpose(1, 2) @ centred / count
        variance = ((covariance @ self.weight) * self.weight).sum(1, keepdim=True)
        gain = self.gain / torch.sqrt(variance + self.eps)
        return self.weight * gain, self.shift - (mean @ self.weight) * gain


class Convolution(nn.Module):
    """[batch, frame, channel] to the same at a lower rate: a convolution, its layer norm if it has one, activation.

    The kernel's positions are taken `stride` at a time: that many input frames, side by side in memory, are one row of
    a matrix, and the next row begins where they end. So a kernel of 2 or 3 with stride 2 is one or two products.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        (self.kernel,), (self.stride,) = layer.conv.kernel_size, layer.conv.stride
        weight = layer.conv.weight.detach().permute(2, 1, 0)  # [kernel, in, out]
        self.weights = nn.ParameterList(_frozen(part.flatten(0, 1).contiguous()) for part in weight.split(self.stride))
        self.bias = layer.conv.bias
        self.norm = getattr(layer, "layer_norm", None)
        self.activation = layer.activation

    def forward(self, hidden: Tensor) -> Tensor:
        batch, frames, channels = hidden.shape
        frames = (frames - self.kernel) // self.stride + 1
        out = torch.empty(0)
        for i, weight in enumerate(self.weights):
            rows = hidden[:, i * self.stride :].as_strided(
                (batch, frames, len(weight)), (hidden.stride(0), self.stride * channels, 1)
            )
            rows = rows.flatten(0, 1)  # no copy where the batch is one clip
            out = out.addmm_(rows, weight) if i else F.linear(rows, weight.t(), self.bias)
        out = out.view(batch, frames, -1)
        return activated(self.activation, out if self.norm is None else self.norm(out))


def activated(activation: nn.Module, hidden: Tensor) -> Tensor:
    """activation(hidden), in hidden's own memory where it is GELU: fresh memory costs more than the function."""
    if type(activation).__name__ == "GELUActivation":
        return cast(Tensor, torch.ops.aten.gelu_(hidden))
    return cast(Tensor, activation(hidden))


class PositionalConvolution(nn.Module):
    """The grouped convolution over positions, [batch, channel, frame]: channels last, its weight norm folded."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        # `conv.weight` computes the weight norm, which transformers does anew for each clip.
        self.weight = _frozen(conv.weight[:, :, None].contiguous(memory_format=torch.channels_last))
        self.bias = _frozen(conv.bias)
        self.padding, self.groups = conv.padding[0], conv.groups

    def forward(self, hidden: Tensor) -> Tensor:
        out = F.conv2d(hidden[:, :, None], self.weight, self.bias, padding=(0, self.padding), groups=self.groups)
        return out[:, :, 0]
