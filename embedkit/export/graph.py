"""The torch modules that become the graph: raw samples to one embedding a clip, whatever the batch was padded to.

Sound -> encoder -> pooling, each a module of its own. They reuse the layers of transformers' models but write out the
passes between them, because transformers' own passes let the padding of a batch leak into its clips (through the first
layer's group norm, and through every convolution that looks past a clip's end).

The shapes that a clip's length decides are symbols while `torch.export` traces these modules, and numbers otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedkit.audio import FRAME, HOP, QUIET, RATE
from embedkit.cards import Sound
from embedkit.encoders.exported import EXTRA_SAMPLES

if TYPE_CHECKING:
    from torch.types import Number

LOUDEST = 1e6  # a sample that is NaN, infinite or beyond this counts as 0
SHORTEST = EXTRA_SAMPLES  # samples: shorter clips get zeros, so that every clip has a frame
WHISPER_HOP = 320  # samples of one frame of a Whisper encoder: a mel hop of 160, halved by its second convolution


def make_length_mask(lengths: Tensor, size: Number) -> Tensor:
    """True where a position belongs to the clip itself: [batch] -> [batch, size]."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


class SoundSteps(nn.Module):
    """The recipe's sound but decoding, resampling and augmenting, in the contract's order.

    In: signal float [batch, samples], 16 kHz; lengths int64 [batch]. Out: wave [batch, longest], zero after each
    clip's end, and the clips' lengths, at least 400 samples (25 ms). A silent clip stays zeros. Recipe `paper` (pad):
    every clip has max_seconds.
    """

    def __init__(self, sound: Sound, *, normalize: bool):
        super().__init__()
        self.sound = sound
        self.normalize = normalize
        self.limit = round(sound.max_seconds * RATE)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """All steps, one after the other."""
        return self.shape_for_encoder(*self.prepare_sound(signal, lengths))

    def prepare_sound(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `audio.prepare` does: trimmed, pre-emphasised, scaled to the peak. 25 ms longer than the signal."""
        lengths = lengths.clamp(min=0).clamp(max=signal.shape[1])
        wave = torch.where(signal.abs() <= LOUDEST, signal, torch.zeros_like(signal))  # NaN compares as false
        wave = F.pad(wave, (0, SHORTEST))
        wave = torch.where(make_length_mask(lengths, wave.shape[1]), wave, torch.zeros_like(wave))
        if self.sound.trim_db:
            wave, lengths = self.trim(wave, lengths)
        if self.sound.pre_emphasis:
            before = F.pad(wave, (1, 0))[:, :-1]
            wave = torch.where(
                make_length_mask(lengths, wave.shape[1]), wave - self.sound.pre_emphasis * before, before * 0
            )
        if self.sound.peak:
            wave = wave * (self.sound.peak / wave.abs().amax(1, keepdim=True).clamp(min=1e-9))
        return wave, lengths

    def shape_for_encoder(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cut, standardize and pad the sound as the encoder expects it."""
        if self.limit:
            lengths = lengths.clamp(max=self.limit)
        if self.normalize:
            wave = self.standardize_clips(wave, lengths)
        lengths = torch.full_like(lengths, self.limit) if self.sound.pad else lengths.clamp(min=SHORTEST)
        return self.crop_to_longest(wave, lengths), lengths

    def trim(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`audio.trim_silence`: keep the sound from the first to the last frame within trim_db of the loudest one."""
        blocks = F.avg_pool1d(F.pad(wave.square(), (FRAME // 2, FRAME // 2))[:, None], HOP)
        power = F.avg_pool1d(blocks, FRAME // HOP, stride=1)[:, 0].clamp(min=QUIET)  # [batch, frame]
        frames = torch.arange(power.shape[1], device=wave.device)
        power = torch.where(frames <= (lengths // HOP)[:, None], power, torch.zeros_like(power))
        loud = power > power.amax(1, keepdim=True) * 10 ** (-self.sound.trim_db / 10)
        first = torch.where(loud, frames, power.shape[1]).amin(1)
        last = torch.where(loud, frames, -1).amax(1)
        start, end = first * HOP, torch.minimum((last + 1) * HOP, lengths)
        index = start[:, None] + torch.arange(wave.shape[1], device=wave.device)
        wave = wave.gather(1, index.clamp(max=wave.shape[1] - 1))
        return torch.where(make_length_mask(end - start, wave.shape[1]), wave, torch.zeros_like(wave)), end - start

    def standardize_clips(self, wave: Tensor, lengths: Tensor) -> Tensor:
        """Zero mean and unit variance over the clip's own samples (Wav2Vec2FeatureExtractor's do_normalize)."""
        valid = make_length_mask(lengths, wave.shape[1]).to(wave.dtype)
        count = lengths.clamp(min=1)[:, None].to(wave.dtype)
        wave = (wave - (wave * valid).sum(1, keepdim=True) / count) * valid
        return wave / (wave.square().sum(1, keepdim=True) / count + 1e-7).sqrt()

    def crop_to_longest(self, wave: Tensor, lengths: Tensor) -> Tensor:
        """Cut the batch to its longest clip, so that the encoder computes no more than it must."""
        if self.sound.pad:
            return F.pad(wave[:, : self.limit], (0, self.limit))[:, : self.limit]
        longest = lengths.max().item()
        check: Callable[[bool], None] = torch._check  # tells torch.export the range of a length that the data decide
        check(longest >= SHORTEST)
        check(longest <= wave.shape[1])
        wave = wave[:, :longest]
        return torch.where(make_length_mask(lengths, longest), wave, torch.zeros_like(wave)) if self.limit else wave


class WaveformFrames(nn.Module):
    """The HuBERT family: wave [batch, samples] -> hidden states [batch, frame, dim] of the layers asked for.

    model: transformers' HubertModel, Wav2Vec2Model, WavLMModel or Data2VecAudioModel, used up to the last layer asked
    for. Returns those states, in the order asked for, and the number of each clip's own frames [batch].
    """

    def __init__(self, model: Any, layers: Sequence[int]):
        super().__init__()
        config = model.config
        self.layers = list(layers)
        self.relative = config.model_type == "wavlm"  # its layers pass a position bias on
        self.stable = bool(getattr(config, "do_stable_layer_norm", False))
        self.kernels = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.convs = model.feature_extractor.conv_layers
        self.projection = model.feature_projection
        self.encoder = model.encoder
        self.blocks = self.encoder.layers[: max(layers)]

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """The hidden states and the numbers of frames; see the class."""
        features = wave[:, None]
        for layer, (kernel, stride) in zip(self.convs, self.kernels, strict=True):
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                features = _apply_group_norm_conv(layer, features, lengths)
            else:
                features = layer(features)
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        hidden = self.projection(features.transpose(1, 2))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        valid = make_length_mask(lengths, hidden.shape[1])
        hidden = torch.where(valid[..., None], hidden, torch.zeros_like(hidden))
        hidden = hidden + self.positions(hidden, valid)
        if not self.stable:
            hidden = self.encoder.layer_norm(hidden)
        states = dict(enumerate(self.passes(hidden, valid)))
        return [states[n] for n in self.layers], lengths

    def positions(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """The convolutional position embedding [batch, frame, dim]; its convolutions see zeros past a clip's end."""
        embed = self.encoder.pos_conv_embed
        x, valid = hidden.transpose(1, 2), valid[:, None]
        if (batch_norm := getattr(embed, "batch_norm", None)) is not None:
            x = batch_norm(x)
        for layer in getattr(embed, "layers", [embed]):
            x = layer.padding(layer.conv(torch.where(valid, x, torch.zeros_like(x))))
            if hasattr(layer, "layer_norm"):
                x = layer.layer_norm(x.transpose(1, 2)).transpose(1, 2)
            x = layer.activation(x)
        return x.transpose(1, 2)

    def passes(self, hidden: Tensor, valid: Tensor) -> Iterator[Tensor]:
        """transformers' hidden_states: the input of each layer, then the output of the last.

        In the variants with a stable layer norm the last one is not normalised, as in transformers 5.
        """
        mask = torch.where(valid, 0.0, torch.finfo(hidden.dtype).min)[:, None, None]
        bias = None
        for block in self.blocks:
            yield hidden
            if self.relative:
                hidden, bias = block(hidden, attention_mask=valid, position_bias=bias)
            else:
                hidden = block(hidden, attention_mask=mask)
        yield hidden


def _apply_group_norm_conv(layer: Any, wave: Tensor, lengths: Tensor) -> Tensor:
    """The first convolution with its group norm over the clip's own frames: [batch, 1, samples] -> [batch, dim, frame].

    The convolution is linear, so each channel's mean and variance follow from those of the windows that it sees (a
    vector of `kernel` samples each), in float64: exact whatever the offset, and cheaper than reading its output twice.
    The norm then becomes a weight and a bias for each clip: one product by the windows and a row of ones.
    """
    conv, norm = layer.conv, layer.layer_norm
    kernel = conv.weight.shape[-1]
    windows = F.conv1d(wave, torch.eye(kernel)[:, None], stride=conv.stride)  # [batch, kernel, frame]
    count = torch.div(lengths - kernel, conv.stride[0], rounding_mode="floor") + 1
    valid = make_length_mask(count, windows.shape[-1])[:, None]
    windows = torch.cat([torch.where(valid, windows, torch.zeros_like(windows)), valid.float()], 1)
    exact = windows[:, :-1].double()
    mean = exact.sum(2, keepdim=True) / count[:, None, None]  # [batch, kernel, 1]
    covariance = exact @ exact.transpose(1, 2) / count[:, None, None] - mean @ mean.transpose(1, 2)
    weight = conv.weight[:, 0].double()  # [dim, kernel]; a bias would only shift the mean that is taken away
    variance = ((weight @ covariance) * weight).sum(2, keepdim=True).clamp(min=0.0)
    folded = weight * (norm.weight[:, None] / (variance + norm.eps).sqrt())  # [batch, dim, kernel]
    folded = torch.cat([folded, norm.bias[:, None] - folded @ mean], 2).float()
    activated: Tensor = layer.activation(folded @ windows)
    return activated


class WhisperFrames(nn.Module):
    """Whisper's encoder with its log-mel: wave [batch, samples] -> hidden states [batch, frame, dim] of some layers.

    encoder: transformers' WhisperEncoder. filters: its feature extractor's mel filters [201, mel]. samples: the longest
    clip (the recipe's cut), at most the encoder's 30 s. A clip's own frames are ceil(samples / 320). crop: the encoder
    sees only these frames (`Sound.crop`), not 30 s.
    """

    positions: Tensor
    fourier: Tensor
    filters: Tensor

    def __init__(self, encoder: Any, layers: Sequence[int], filters: Tensor, samples: int, *, crop: bool = False):
        super().__init__()
        config = encoder.config
        self.crop = crop
        self.layers = list(layers)
        self.last = config.encoder_layers
        self.encoder = encoder
        self.blocks = self.encoder.layers[: max(layers)]
        self.window = 2 * config.max_source_positions * 160  # samples: 480,000
        self.samples = min(samples or self.window, self.window)
        positions = encoder.embed_positions.weight.detach()
        self.register_buffer("positions", positions[: math.ceil(self.samples / WHISPER_HOP)] if crop else positions)
        time = torch.arange(400, dtype=torch.float64) * (2 * math.pi / 400)
        angle = torch.arange(201, dtype=torch.float64)[:, None] * time
        waves = torch.cat([angle.cos(), -angle.sin()]) * (0.5 - 0.5 * time.cos())  # Hann
        self.register_buffer("fourier", waves.float()[:, None])
        self.register_buffer("filters", filters.T.float().contiguous())

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """The hidden states and the numbers of the clips' own frames [batch]."""
        frames = torch.div(lengths + WHISPER_HOP - 1, WHISPER_HOP, rounding_mode="floor")
        frames = frames.clamp(max=self.window // WHISPER_HOP)
        mel = self.compute_log_mel(wave)
        valid_mel, valid = None, None
        if self.crop:
            valid_mel, valid = (
                make_length_mask(2 * frames, mel.shape[2])[:, None],
                make_length_mask(frames, mel.shape[2] // 2),
            )
            mel = torch.where(valid_mel, mel, torch.zeros_like(mel))
        x = F.gelu(self.encoder.conv1(mel))
        if valid_mel is not None:
            x = torch.where(valid_mel, x, torch.zeros_like(x))
        x = F.gelu(self.encoder.conv2(x)).transpose(1, 2)
        states = dict(enumerate(self.passes(x + self.positions[: x.shape[1]], valid)))
        return [states[n] for n in self.layers], frames

    def passes(self, hidden: Tensor, valid: Tensor | None) -> Iterator[Tensor]:
        """The hidden states in turn. valid [batch, frame]: the frames that attention may look at; None: all."""
        mask = None if valid is None else torch.where(valid, 0.0, torch.finfo(hidden.dtype).min)[:, None, None]
        for number, block in enumerate(self.blocks, 1):
            yield hidden
            hidden = block(hidden, mask)
            if number == self.last:
                hidden = self.encoder.layer_norm(hidden)
        yield hidden

    def compute_log_mel(self, wave: Tensor) -> Tensor:
        """WhisperFeatureExtractor's: 25 ms Hann windows every 10 ms, Slaney mel, log10, 8 decades, (x + 4) / 4.

        Only the part that a clip can fill is transformed; the zeros up to 30 s have a known logarithm. With crop: two
        mel frames for each frame of the encoder, as many as the longest clip has. Returns [batch, mel, frame].
        """
        full = self.samples == self.window and not self.crop
        wave = (wave if self.crop else F.pad(wave, (0, self.samples)))[:, None, : self.samples]
        wanted = 2 * ((wave.shape[2] + WHISPER_HOP - 1) // WHISPER_HOP) if self.crop else self.window // 160
        ends = (200, 200) if full else (200, 0)
        wave = F.pad(F.pad(wave, ends, mode="reflect"), (0, 0 if full else 360 + WHISPER_HOP * self.crop))
        parts = F.conv1d(wave, self.fourier, stride=160)
        frames = wanted if self.crop else min(parts.shape[-1], wanted)  # the extractor drops the last one
        power = (parts[:, :201].square() + parts[:, 201:].square())[..., :frames]
        logs = (self.filters @ power).clamp(min=1e-10).log10()
        logs = F.pad(logs, (0, wanted - frames), value=-10.0)
        return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


class EncoderBody(nn.Module):
    """Sound, encoder and pooling: signal [batch, samples] and lengths [batch] -> embedding [batch, layer * stat * dim].

    stats: "mean" and "std" (ddof 0) over a clip's own frames; over all frames where the recipe pads.
    """

    sound: SoundSteps

    def __init__(self, sound: SoundSteps, frames: nn.Module, stats: Sequence[Literal["mean", "std"]], *, pad: bool):
        super().__init__()
        self.sound, self.frames, self.stats, self.pad = sound, frames, list(stats), pad

    def forward(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """The embedding alone."""
        return self.embed_clips(signal, lengths)[0]

    def embed_clips(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The embedding; the prepared sound [batch, samples + 400] and its lengths [batch], before the sound is cut."""
        prepared, prepared_lengths = self.sound.prepare_sound(signal, lengths)
        states, count = self.frames(*self.sound.shape_for_encoder(prepared, prepared_lengths))
        return (
            torch.cat([part for state in states for part in self.pool_state(state, count)], 1),
            prepared,
            prepared_lengths,
        )

    def pool_state(self, state: Tensor, count: Tensor) -> list[Tensor]:
        """Each statistic [batch, dim] of a hidden state [batch, frame, dim], over each clip's first `count` frames."""
        valid = make_length_mask(count, state.shape[1])[..., None]
        total = count[:, None].to(state.dtype)
        mean = torch.where(valid, state, torch.zeros_like(state)).sum(1) / total
        if "std" not in self.stats:
            return [mean]
        deviation = torch.where(valid, state - mean[:, None], torch.zeros_like(state))
        both = {"mean": mean, "std": (deviation.square().sum(1) / total).sqrt()}
        return [both[stat] for stat in self.stats]


def make_exportable(model: nn.Module) -> nn.Module:
    """The same model with plain weights: weight norm is computed, and attention is the eager one. In place."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", {})):
            nn.utils.parametrize.remove_parametrizations(module, name)
    model.set_attn_implementation("eager")  # type: ignore[operator]
    return model.float().eval().requires_grad_(False)


def build_body(
    model: Any,
    sound: Sound,
    layers: Sequence[int],
    stats: Sequence[Literal["mean", "std"]],
    *,
    normalize: bool = False,
    filters: Tensor | None = None,
) -> EncoderBody:
    """Everything before the head. model: transformers' own, which is changed in place.

    normalize: the checkpoint's do_normalize (waveform encoders). filters: a Whisper encoder's mel filters [201, mel];
    None: a waveform encoder.
    """
    make_exportable(model)
    steps = SoundSteps(sound, normalize=normalize)
    frames = (
        WaveformFrames(model, layers)
        if filters is None
        else WhisperFrames(model.encoder, layers, filters, steps.limit, crop=sound.crop)
    )
    return EncoderBody(steps, frames, stats, pad=sound.pad).eval()
