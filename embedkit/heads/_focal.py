"""The MLP's arithmetic: focal loss with a written-out backward pass, AdamW, and the schedule of the learning rate."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


class Network:
    """x [row, layers * dim] -> sum of layers -> Linear -> activation -> dropout -> Linear -> logits [row, class].

    The sum is weighted by softmax(mix) [layers]; with one layer there is nothing to weigh. Weights are [in, out].
    `parameters` holds all of them in one flat tensor and `gradient` their gradient; w1, b1, w2, b2, mix and g1, h1, g2,
    h2, g_mix are views into the two. Initial values are torch's own for Linear, uniform in +- 1 / sqrt(in), and equal
    weights for the layers.
    """

    def __init__(
        self, dim: int, hidden: int, classes: int, activation: str, generator: torch.Generator, layers: int = 1
    ):
        shapes = [(dim, hidden), (hidden,), (hidden, classes), (classes,), (layers if layers > 1 else 0,)]
        sizes = [math.prod(shape) for shape in shapes]
        ends = [dim**-0.5, dim**-0.5, hidden**-0.5, hidden**-0.5, 0.0]
        bounds = torch.tensor(ends).repeat_interleave(torch.tensor(sizes))
        self.parameters = (2 * torch.rand(sum(sizes), generator=generator) - 1) * bounds
        self.gradient = torch.zeros_like(self.parameters)
        self.w1, self.b1, self.w2, self.b2, self.mix = _split_tensor(self.parameters, shapes)
        self.g1, self.h1, self.g2, self.h2, self.g_mix = _split_tensor(self.gradient, shapes)
        self.activation, self.layers = activation, layers

    def weights(self) -> Tensor:
        """The weight of each layer [layers]; their sum is 1."""
        return torch.softmax(self.mix, 0) if self.layers > 1 else torch.ones(1)

    def sum_layers(self, x: Tensor) -> Tensor:
        """The weighted sum of a row's layers [row, dim]; after Yang et al., "SUPERB", 2021."""
        return x if self.layers == 1 else (self.weights() @ x.view(len(x), self.layers, -1))

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of x [row, dim] the hidden layer after its activation, and the activation's slope there, both [row, hidden];
        the slope is None where it is 1 everywhere."""
        h = torch.addmm(self.b1, x, self.w1)
        if self.activation == "relu":
            return h.relu(), (h > 0).float()
        if self.activation == "gelu":  # x P(x), P the normal distribution: slope P(x) + x p(x)
            below = torch.erf(h * math.sqrt(0.5)).add_(1).mul_(0.5)
            density = torch.exp(h.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi))
            return h * below, density.mul_(h).add_(below)
        return h, None

    def compute_logits(self, x: Tensor) -> Tensor:
        """Logits [row, class] of x [row, layers * dim], without dropout."""
        return torch.addmm(self.b2, self.hidden(self.sum_layers(x))[0], self.w2)

    def backward(self, x: Tensor, target: Tensor, gamma: float, mask: Tensor | None) -> None:
        """Fill `gradient` with that of a batch's mean loss.

        x: [row, layers * dim]. target: a_y q [row, class] (see `embedkit.heads.mlp`). mask: of dropout, 0 or 1 / keep
        [row, hidden].
        """
        z = self.sum_layers(x)
        active, slope = self.hidden(z)
        if mask is not None:
            active = active * mask
        signal = focal_gradient(torch.addmm(self.b2, active, self.w2), target, gamma)
        torch.mm(active.T, signal, out=self.g2)
        torch.sum(signal, 0, out=self.h2)
        signal = signal @ self.w2.T
        if mask is not None:
            signal *= mask
        if slope is not None:
            signal *= slope
        torch.mm(z.T, signal, out=self.g1)
        torch.sum(signal, 0, out=self.h1)
        if self.layers > 1:
            each = torch.einsum("nld,nd->l", x.view(len(x), self.layers, -1), signal @ self.w1.T)
            weights = self.weights()
            torch.mul(weights, each - weights @ each, out=self.g_mix)


def focal_gradient(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """The gradient of a batch's mean loss by its logits [row, class]; target as in `Network.backward`.

    With l = log p, r = 1 - p and g = gamma: d(-r^g l)/dl = r^(g-1) (g p l - r) =: u; by logit j it is
    u_j - p_j sum_c u_c.
    """
    logp = torch.log_softmax(logits, 1)
    p = logp.exp()
    rest = torch.expm1(logp).neg_().clamp_min_(1e-12)  # 0 ^ (g-1) is infinite below g = 1
    u = (p * logp).mul_(gamma).sub_(rest).mul_(target).mul_(rest.pow(gamma - 1))
    return u.addcmul_(p, u.sum(1, keepdim=True), value=-1).div_(len(u))


def _split_tensor(flat: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    parts = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class Optimizer:
    """AdamW over one flat tensor, by torch's fused kernel itself: what torch.optim puts around it costs a tenth of a
    training step at batch 16. The kernel is not public: see `has_fused_kernel`."""

    def __init__(self, parameters: Tensor, gradient: Tensor, weight_decay: float):
        self.parameters, self.gradient, self.weight_decay = parameters, gradient, weight_decay
        self.mean, self.square = torch.zeros(2, len(parameters))
        self.count = torch.zeros(())

    def step(self, lr: float) -> None:
        """Move the parameters, in place, by what `gradient` holds now."""
        self.count += 1
        torch._fused_adamw_(
            [self.parameters], [self.gradient], [self.mean], [self.square], [], [self.count],
            lr=lr, weight_decay=self.weight_decay, beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip


class PublicOptimizer:
    """The same by torch.optim, for a torch whose kernel is not as `Optimizer` knows it."""

    def __init__(self, parameters: Tensor, gradient: Tensor, weight_decay: float):
        parameters.grad = gradient
        self.adamw = torch.optim.AdamW([parameters], weight_decay=weight_decay, fused=True)

    def step(self, lr: float) -> None:
        """Move the parameters, in place, by what `gradient` holds now."""
        self.adamw.param_groups[0]["lr"] = lr
        self.adamw.step()


def make_optimizer(parameters: Tensor, gradient: Tensor, weight_decay: float) -> Optimizer | PublicOptimizer:
    """AdamW of two flat tensors [parameter], with torch's default betas and epsilon."""
    return (Optimizer if has_fused_kernel() else PublicOptimizer)(parameters, gradient, weight_decay)


@functools.cache
def has_fused_kernel() -> bool:
    """Whether `Optimizer` works with the torch that is installed: tried on one parameter, once in a process.

    From 0 with gradient 1 the first step of AdamW is -lr, up to epsilon.
    """
    parameter = torch.zeros(1)
    try:
        Optimizer(parameter, torch.ones(1), 0.0).step(0.5)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return abs(parameter.item() + 0.5) < 1e-6


def compute_lr_factor(step: int, steps: int, warmup: float) -> float:
    """The learning rate at a step (from 0) as a share of its peak: a linear rise over the first steps, then half a
    cosine down to 0. warmup: the share of the steps that rise.

    >>> [round(compute_lr_factor(s, 10, 0.2), 3) for s in (0, 1, 2, 6, 9)]
    [0.0, 0.5, 1.0, 0.5, 0.038]
    """
    rise = math.ceil(steps * warmup)
    if step < rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
