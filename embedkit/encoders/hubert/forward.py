"""The convolutions of the HuBERT family as matrix products on [frame, channel]; the rest stays transformers' own.

transformers keeps sound as [channel, frame], a layout in which neither matrix products nor AMX are fast. With channels
last the frames under a kernel lie side by side in memory: they are one row of a matrix. On a CPU oneDNN computes the
products, from weights that it lays out once (torch lets it do so for each clip), with bias and GELU in the same call.
torch has functions for these calls, for its own compiler, that are not public: `has_onednn` asks whether they exist.

Batching never changes a feature: the first layer's group norm, the only part that depends on a whole clip, uses each
clip's own length. The tests compare every part with transformers' own values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.encoders._arithmetic import choose_arithmetic, has_onednn, round_weights
from embedkit.encoders.hubert.frames import FRAME_MULTIPLE, count_samples, round_up


class ConvolutionLayer(Protocol):
    """A convolution of transformers' models, over sound or over positions, and its activation."""

    conv: nn.Conv1d
    activation: Callable[[Tensor], Tensor]


class NormalizedLayer(ConvolutionLayer, Protocol):
    """One with a group norm over the frames of each channel between the two."""

    layer_norm: nn.GroupNorm


class ConvolutionStack(Protocol):
    """transformers' feature extractor."""

    conv_layers: Sequence[ConvolutionLayer]


def optimise_model(model: Any, device: str, dtype: torch.dtype) -> Any:
    """transformers' model (fp32) moved to device and dtype, with its convolutions and linear layers replaced, in place.

    Where a device does not multiply in bf16 (`choose_arithmetic`), weights are rounded to it and all else is fp32.
    """
    asked, dtype = dtype, choose_arithmetic(device, dtype)
    for tensor in model.parameters():
        tensor.data = tensor.data.clone()  # else a few small ones would keep the whole checkpoint in memory
    round_weights(model.parameters(), asked, dtype)
    model.feature_extractor = FeatureExtractor(model.feature_extractor, device, dtype)
    embedding = model.encoder.pos_conv_embed
    if has_onednn(device) and hasattr(embedding, "conv"):
        embedding.conv, embedding.activation = make_positional_convolution(embedding, dtype), nn.Identity()
    model.to(device=device, dtype=dtype)
    if not has_onednn(device):
        return model
    for module in list(model.modules()):
        if hasattr(module, "torch_multi_head_self_attention"):
            continue  # WavLM's attention, whose weights torch uses itself
        gelu = is_gelu(getattr(module, "intermediate_act_fn", None))
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, Linear(child, gelu=gelu and name == "intermediate_dense"))
        if gelu:
            module.intermediate_act_fn = nn.Identity()
    return model


def pack_weight(weight: Tensor) -> Tensor:
    """weight [out, in] in the layout in which oneDNN multiplies fastest; only `apply_linear` takes it."""
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight))


def apply_linear(rows: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """rows [..., in] to rows @ weight.T + bias [..., out], with GELU if asked for. weight: [out, in], or packed."""
    if has_onednn(rows.device.type):
        name = "gelu" if gelu else "none"
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(rows, weight, bias, name, [], "none"))
    out = F.linear(rows, weight, bias)
    return apply_gelu_(out) if gelu else out


def apply_gelu_(hidden: Tensor) -> Tensor:
    """GELU, in place: new memory would cost more than the function."""
    return cast(Tensor, torch.ops.aten.gelu_(hidden))


def is_gelu(activation: object) -> bool:
    """Whether an activation of transformers is the exact GELU, which oneDNN can apply."""
    return type(activation).__name__ == "GELUActivation"


class Linear(nn.Module):
    """A linear layer of torch, and the GELU that may follow it, by oneDNN."""

    def __init__(self, linear: nn.Linear, gelu: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.gelu = pack_weight(linear.weight.detach()), linear.bias.detach(), gelu

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return apply_linear(hidden, self.weight, self.bias, self.gelu)


class FeatureExtractor(nn.Module):
    """Sound [batch, samples] to [batch, channel, frame], for clips of any lengths.

    `lengths` [batch] (samples of each clip; the rest of its row is padding) and `frames` (how many to return, at least)
    are set before each call, because transformers gives an extractor nothing but the sound. Frames that overlap the
    padding have no meaning, those beyond it are zeros.

    On a CPU a clip of more than PART frames is processed in parts: no convolution pads, so the frames are the same, and
    neighbours share 5 ms of sound. Whole clips would be 1 to 3 % faster; but the convolutions' memory would grow with
    the longest clip, and in bf16 oneDNN would compile kernels for the length of each, which take 11 MB and 75 ms.
    """

    PART: ClassVar = {torch.bfloat16: 160, torch.float32: 240}  # frames: 3.2 and 4.8 s

    def __init__(self, original: ConvolutionStack, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.lengths, self.frames = torch.empty(0), 0
        self.dtype = dtype
        layers = list(original.conv_layers)
        kernels, strides = ([getattr(layer.conv, of)[0] for layer in layers] for of in ("kernel_size", "stride"))
        self.field, self.hop = count_samples(1, kernels, strides), math.prod(strides)  # of a frame
        norms_clip = isinstance(getattr(layers[0], "layer_norm", None), nn.GroupNorm)
        self.first = FirstConvolution(cast(NormalizedLayer, layers.pop(0)), device) if norms_clip else None
        self.rest = nn.ModuleList(Convolution(layer, device, dtype) for layer in layers)

    def forward(self, signal: Tensor) -> Tensor:
        """[batch, samples] to [batch, channel, frame]."""
        first = self.first and self.first.of(signal, self.lengths, self.dtype)
        parts = []
        for segment in self.parts(signal):
            hidden = first(segment) if first else segment[:, :, None].to(self.dtype)
            for layer in self.rest:
                hidden = layer(hidden)
            parts.append(hidden)
        missing = max(0, self.frames - sum(part.shape[1] for part in parts))
        parts.append(hidden.new_zeros(len(hidden), missing, hidden.shape[2]))
        return torch.cat(parts, 1).transpose(1, 2)

    def parts(self, signal: Tensor) -> Iterator[Tensor]:
        """The sound [batch, samples] in parts of equally many frames (but the last), a multiple of FRAME_MULTIPLE."""
        frames = (signal.shape[1] - self.field) // self.hop + 1
        count = -(-frames // self.PART[self.dtype]) if signal.device.type == "cpu" else 1
        width = round_up(-(-frames // count), FRAME_MULTIPLE)
        for start in range(0, frames, width):
            last = min(start + width, frames) - 1
            yield signal[:, start * self.hop : last * self.hop + self.field]


class FirstConvolution(nn.Module):
    """Sound [batch, samples] to [batch, frame, channel]: the first convolution, its group norm and activation.

    Over the windows x of a clip, channel c is w_c . x: its mean is w_c . E[x], its variance w_c' Cov(x) w_c. So ten
    means and a 10 x 10 matrix give the statistics of all 512 channels, and the norm becomes part of one matrix product,
    with another weight and bias for each clip. The statistics are in float64: of sound with an offset, a variance is a
    small difference of large numbers.
    """

    def __init__(self, layer: NormalizedLayer, device: str) -> None:
        super().__init__()
        (self.kernel,), (self.stride,) = layer.conv.kernel_size, layer.conv.stride
        # Plain attributes, which model.to(bfloat16) does not convert. The norm would remove a bias of the convolution.
        self.weight = layer.conv.weight.detach()[:, 0].to(device, torch.float64)  # [channel, kernel]
        self.gain = layer.layer_norm.weight.detach().to(device, torch.float64)
        self.shift = layer.layer_norm.bias.detach().to(device, torch.float64)
        self.eps = layer.layer_norm.eps
        self.activation = layer.activation

    def of(self, signal: Tensor, lengths: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The layer with the norms of a batch of whole clips [batch, samples], to be called with parts of them.

        lengths: the samples of each clip [batch].
        """
        folded = [
            [of.to(dtype) for of in self.fold_norm(windows[: (length - self.kernel) // self.stride + 1].double())]
            for windows, length in zip(self.slice_windows(signal), lengths.tolist(), strict=True)
        ]
        gelu = is_gelu(self.activation)

        def convolve(part: Tensor) -> Tensor:
            pairs = zip(self.slice_windows(part.to(dtype)), folded, strict=True)
            clips = [apply_linear(windows, weight, bias, gelu) for windows, (weight, bias) in pairs]
            out = torch.stack(clips) if len(clips) > 1 else clips[0][None]
            return out if gelu else self.activation(out)

        return convolve

    def slice_windows(self, signal: Tensor) -> Tensor:
        """[batch, samples] to the samples under the kernel at each frame [batch, frame, kernel]."""
        return signal.unfold(-1, self.kernel, self.stride)

    def fold_norm(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [channel, kernel] and bias [channel] that apply the norm too. windows: of one clip [frame, kernel]."""
        mean = windows.mean(0)
        centred = windows - mean
        variance = (self.weight @ (centred.T @ centred / len(windows)) * self.weight).sum(1)
        gain = self.gain / torch.sqrt(variance + self.eps)
        return self.weight * gain[:, None], self.shift - (self.weight @ mean) * gain


class Convolution(nn.Module):
    """[batch, frame, channel] to the same at a lower rate: a convolution, its layer norm if it has one, activation.

    The frames under a kernel lie side by side in memory: they are one row of a matrix, and the convolution is a product
    of a matrix whose rows overlap. oneDNN needs a copy of such rows, which in bf16 costs less than oneDNN saves. It
    costs more in fp32: there `stride` positions of the kernel are taken at a time, so that a row begins where the one
    before it ends, and a kernel of 2 or 3 with stride 2 is one or two products without a copy. Most of a clip needs
    fewer multiplications: see `convolve_by_threes`.
    """

    def __init__(self, layer: ConvolutionLayer, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        (self.kernel,), (self.stride,) = layer.conv.kernel_size, layer.conv.stride
        self.norm, self.activation = getattr(layer, "layer_norm", None), layer.activation
        self.bias = None if layer.conv.bias is None else layer.conv.bias.detach().to(device, dtype)
        weight = layer.conv.weight.detach().to(device, dtype).permute(2, 1, 0)  # [kernel, in, out]
        # Plain attributes, as a packed weight cannot be converted.
        self.packed: Tensor | None = None
        self.weights: list[Tensor] = []
        if has_onednn(device) and dtype == torch.bfloat16:
            self.packed = pack_weight(weight.flatten(0, 1).t())
        else:
            self.weights = [part.flatten(0, 1).contiguous() for part in torch.split(weight, self.stride)]
        self.halves: list[Tensor] = []
        if self.weights and device == "cpu" and (self.kernel, self.stride) == (3, 2):
            self.halves = [(weight[0] + weight[2]) / 2, (weight[0] - weight[2]) / 2]

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, frame, channel] to [batch, fewer frames, channel]."""
        gelu = self.norm is None and is_gelu(self.activation)
        if self.packed is not None:
            out = apply_linear(self.rows(hidden, 0, self.kernel), self.packed, self.bias, gelu)
        else:
            out = (
                self.convolve_by_threes(hidden[0])[None]
                if self.halves and len(hidden) == 1
                else self.convolve_by_strides(hidden)
            )
            out = apply_gelu_(out) if gelu else out
        if gelu:
            return out
        return self.activation(out if self.norm is None else self.norm(out))

    def rows(self, hidden: Tensor, first: int, count: int) -> Tensor:
        """[batch, frame, count * channel]: `count` of the frames under the kernel, from place `first`, side by side."""
        batch, frames, channels = hidden.shape
        size = batch, (frames - self.kernel) // self.stride + 1, count * channels
        return hidden[:, first:].as_strided(size, (hidden.stride(0), self.stride * channels, 1))

    def convolve_by_strides(self, hidden: Tensor) -> Tensor:
        """The convolution of [batch, frame, channel], `stride` positions of the kernel at a time."""
        out = torch.empty(0)
        for i, weight in enumerate(self.weights):
            rows = self.rows(hidden, i * self.stride, len(weight) // hidden.shape[2])
            flat = rows.flatten(0, 1)  # no copy where the batch is one clip
            out = out.addmm_(flat, weight) if i else F.linear(flat, weight.t(), self.bias)
        return out.view(*rows.shape[:2], -1)

    def convolve_by_threes(self, clip: Tensor) -> Tensor:
        """The convolution of one clip [frame, channel], kernel 3 and stride 2, by 7 products for 3 frames instead of 9.

        The outer two weights are only multiplied by even frames a, b, c, d...: three results of two weights take 4
        products instead of 6 (S. Winograd, Arithmetic Complexity of Computations, 1980: F(3, 2)). The odd frames take
        3, as usual.
        """
        (outer, last), (plus, minus) = self.weights, self.halves
        first, odd = outer.chunk(2)
        out = clip.new_empty((len(clip) - self.kernel) // self.stride + 1, outer.shape[1])
        count = len(out) // 3
        a, b, c, d = (clip[place::6][:count] for place in (0, 2, 4, 6))
        part = out[: 3 * count]
        triples = part.view(count, 3, outer.shape[1])
        half, other = F.linear(b + c, plus.t(), self.bias), (c - b) @ minus
        for place, combine in enumerate((torch.add, torch.sub, torch.add)):
            combine(half, other, out=triples[:, place])
        triples[:, 0].addmm_(a - c, first)
        triples[:, 2].addmm_(d - b, last)
        part.addmm_(clip[1::2][: 3 * count], odd)
        if len(out) > 3 * count:
            out[3 * count :] = self.convolve_by_strides(clip[None, 6 * count :])[0]
        return out


def make_positional_convolution(embedding: ConvolutionLayer, dtype: torch.dtype) -> nn.Module:
    """The faster of the two below, but not oneDNN's for groups below 16 channels, as its results are wrong for them."""
    in_bf16 = choose_arithmetic("cpu", dtype) == torch.bfloat16
    if in_bf16 and embedding.conv.in_channels // embedding.conv.groups >= 16:
        return PositionalConvolution(embedding)
    return FourierConvolution(embedding)


class FourierConvolution(nn.Module):
    """The grouped convolution over positions, [batch, channel, frame], and its activation, computed in fp32.

    With 128 taps it takes half the time by Fourier transforms of segments that overlap by a kernel less one frame (the
    overlap-save method: T. G. Stockham, High-Speed Convolution and Correlation, 1966): what remains is, for each
    frequency, a matrix product over the channels of a group.
    """

    def __init__(self, embedding: ConvolutionLayer) -> None:
        super().__init__()
        conv, self.activation = embedding.conv, embedding.activation
        (self.kernel,), self.padding, self.groups = conv.kernel_size, int(conv.padding[0]), conv.groups
        self.segment = 2 * self.kernel  # frames
        # `conv.weight` computes the weight norm, which transformers does again for each clip. The conjugate, as a layer
        # of a network correlates: it does not reverse its taps.
        spectra = torch.fft.rfft(conv.weight.detach(), self.segment).conj().unflatten(0, (self.groups, -1))
        self.spectra = spectra.permute(3, 0, 2, 1).flatten(0, 1).contiguous()  # [frequency * group, in, out]
        self.bias = cast(Tensor, conv.bias).detach()

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, channel, frame] to the same."""
        batch, _, frames = hidden.shape
        frames += 2 * self.padding - self.kernel + 1
        step = self.segment - self.kernel + 1
        segments = -(-frames // step)
        missing = (segments - 1) * step + self.segment - self.padding - hidden.shape[2]
        windows = F.pad(hidden.float(), (self.padding, missing)).unfold(2, self.segment, step)
        spectra = torch.fft.rfft(windows).unflatten(1, (self.groups, -1))  # [batch, group, in, segment, frequency]
        rows = spectra.permute(4, 1, 0, 3, 2).reshape(len(self.spectra), batch * segments, -1)
        spectra = torch.bmm(rows, self.spectra).view(-1, self.groups, batch, segments, rows.shape[2])
        out = torch.fft.irfft(spectra.permute(2, 1, 4, 3, 0).flatten(1, 2), self.segment)[..., :step]
        out = (out.flatten(2)[:, :, :frames] + self.bias[:, None]).to(hidden.dtype)
        return apply_gelu_(out) if is_gelu(self.activation) else self.activation(out)


class PositionalConvolution(nn.Module):
    """The same in bf16, by oneDNN.

    oneDNN lays the weights out differently for each number of frames, which takes it a second. So there are only two
    numbers: a clip is padded with zeros to one of WIDTHS, a longer one cut into parts of these.
    """

    WIDTHS = (224, 400)  # frames: 4.5 and 8 s; the weights are in memory once for each

    def __init__(self, embedding: ConvolutionLayer) -> None:
        super().__init__()
        conv, self.activation = embedding.conv, embedding.activation
        (self.kernel,), self.padding = conv.kernel_size, int(conv.padding[0])
        # `conv.weight` computes the weight norm, which transformers does again for each clip.
        weight = conv.weight.detach()[:, :, None].bfloat16().contiguous(memory_format=torch.channels_last)
        self.bias = cast(Tensor, conv.bias).detach().bfloat16()
        self.conv_arguments = (0, 0), (1, 1), (1, 1), conv.groups  # padding, stride, dilation
        self.weights = {
            width: torch.ops.mkldnn._reorder_convolution_weight(
                weight, *self.conv_arguments, (1, conv.in_channels, 1, width + self.kernel - 1)
            )
            for width in self.WIDTHS
        }

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, channel, frame] to the same."""
        frames = hidden.shape[2] + 2 * self.padding - self.kernel + 1
        clips = [torch.cat(list(self.parts(clip, frames)))[:frames] for clip in hidden.transpose(1, 2)]
        out = torch.stack(clips).transpose(1, 2)
        return out if is_gelu(self.activation) else self.activation(out)

    def parts(self, clip: Tensor, frames: int) -> Iterator[Tensor]:
        """The result for one clip [frame, channel], in parts [width, channel] of at least so many frames together."""
        attribute = "gelu" if is_gelu(self.activation) else "none"
        longest = self.WIDTHS[-1]
        for start in range(0, frames, longest):
            width = next(w for w in self.WIDTHS if w >= min(frames - start, longest))
            first, last = start - self.padding, start - self.padding + width + self.kernel - 1
            inputs = F.pad(clip[max(0, first) : last], (0, 0, max(0, -first), max(0, last - len(clip))))
            out = torch.ops.mkldnn._convolution_pointwise(
                inputs.t()[None, :, None], self.weights[width], self.bias, *self.conv_arguments, attribute, [], "none"
            )
            yield out[0, :, 0].t()
