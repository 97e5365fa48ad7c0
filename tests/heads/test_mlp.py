"""The fast training loop against autograd, plain AdamW and a loop that one would write by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight

from embedkit import heads
from embedkit.heads import mlp
from embedkit.heads._focal import compute_lr_factor, focal_gradient
from embedkit.heads.mlp import MLP


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """150 rows (the last batch is not full) of 12 features, four classes in unequal number."""
    rng = np.random.default_rng(3)
    y = rng.choice(["anger", "happiness", "neutral", "sadness"], 150, p=[0.4, 0.3, 0.2, 0.1])
    X = rng.standard_normal((150, 12)) + 2 * np.eye(12)[np.searchsorted(np.unique(y), y)]
    return X.astype(np.float32), y


def loss(logits: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, gamma: float, smoothing: float) -> torch.Tensor:
    """The contract's formula, term by term."""
    p = torch.softmax(logits, 1)
    total = torch.zeros((), dtype=logits.dtype)
    for i, label in enumerate(y.tolist()):
        for c in range(logits.shape[1]):
            q = (1 - smoothing) * (c == label) + smoothing / logits.shape[1]
            total = total + weight[label] * q * (1 - p[i, c]) ** gamma * -torch.log(p[i, c])
    return total / len(y)


def train_slowly(head: MLP, X: np.ndarray, y: np.ndarray, views: np.ndarray | None) -> list[torch.Tensor]:
    """torch's layers, autograd, plain AdamW and a scheduler, drawing the same numbers in the same order."""
    generator = torch.Generator().manual_seed(int(check_random_state(head.random_state).randint(2**31 - 1)))
    index = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    weight = torch.tensor(compute_class_weight("balanced", classes=np.unique(y), y=y), dtype=torch.float32)
    start = mlp.Network(X.shape[1], head.hidden, len(weight), "none", generator)
    one, two = torch.nn.Linear(X.shape[1], head.hidden), torch.nn.Linear(head.hidden, len(weight))
    with torch.no_grad():
        for layer, w, b in ((one, start.w1, start.b1), (two, start.w2, start.b2)):
            layer.weight.copy_(w.T)
            layer.bias.copy_(b)
    activation = {"none": torch.nn.Identity(), "relu": torch.nn.ReLU(), "gelu": torch.nn.GELU()}[head.activation]
    pool = torch.from_numpy(X[:, None] if views is None else np.concatenate([X[:, None], views], 1))
    optimizer = torch.optim.AdamW(
        [*one.parameters(), *two.parameters()], head.lr, weight_decay=head.weight_decay, foreach=False
    )
    steps = head.epochs * math.ceil(len(X) / head.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: compute_lr_factor(step, steps, head.warmup))
    for _ in range(head.epochs):
        order = torch.randperm(len(X), generator=generator)
        draw = torch.randint(pool.shape[1], (len(X),), generator=generator) if views is not None else 0 * order
        for rows, view in zip(order.split(head.batch), draw.split(head.batch), strict=True):
            hidden = activation(one(pool[rows, view]))
            if head.dropout:
                keep = 1 - head.dropout
                hidden = hidden * torch.empty_like(hidden).bernoulli_(keep, generator=generator) / keep
            optimizer.zero_grad()
            loss(two(hidden), index[rows], weight, head.gamma, head.smoothing).backward()
            optimizer.step()
            schedule.step()
    return [one.weight.T, one.bias, two.weight.T, two.bias]


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("with_views", [False, True])
def test_an_epoch_equals_the_slow_loop(activation: str, dropout: float, with_views: bool, data: Any) -> None:
    """After an epoch the weights equal those of autograd and plain AdamW to float rounding (1e-6; moved by > 1e-3)."""
    X, y = data
    views = np.random.default_rng(1).standard_normal((150, 3, 12)).astype(np.float32) if with_views else None
    settings = {"activation": activation, "dropout": dropout, "hidden": 20, "epochs": 1, "lr": 1e-2}
    head = MLP(**settings, random_state=4).fit(X, y, views=views)  # type: ignore[arg-type]
    start = mlp.Network(
        12, 20, 4, activation, torch.Generator().manual_seed(int(check_random_state(4).randint(2**31 - 1)))
    )
    slow = train_slowly(head, X, y, views)
    for name, expected in zip(("w1", "b1", "w2", "b2"), slow, strict=True):
        found = getattr(head.network_, name)
        assert (found - getattr(start, name)).abs().max() > 1e-3
        np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_gradient_equals_autograd(gamma: float) -> None:
    """The written-out gradient by the logits equals autograd's of the contract's formula, in float64, to 1e-12."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(9, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    y = torch.randint(4, (9,), generator=generator)
    weight = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64)
    (expected,) = torch.autograd.grad(loss(logits, y, weight, gamma, 0.1), logits)
    target = weight[y][:, None] * (0.9 * torch.eye(4, dtype=torch.float64)[y] + 0.1 / 4)
    found = focal_gradient(logits.detach(), target, gamma)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_of_a_certain_row_is_finite(gamma: float) -> None:
    """Where p is 1 or 0 to the last bit, autograd of the formula gives NaN; the written-out gradient does not."""
    logits = torch.tensor([[200.0, 0.0, 0.0, -200.0]])
    assert torch.isfinite(focal_gradient(logits, torch.tensor([[0.1, 0.2, 0.3, 0.4]]), gamma)).all()


def test_no_smoothing_no_focus_is_cross_entropy() -> None:
    """gamma = 0, smoothing = 0 and no class weights give torch's own cross-entropy gradient (1e-7)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 4, generator=generator, requires_grad=True)
    y = torch.randint(4, (16,), generator=generator)
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), logits)
    found = focal_gradient(logits.detach(), torch.eye(4)[y], 0.0)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.1), (57, 0.1), (40, 0.0), (10, 0.33)])
def test_rate_equals_torch_schedulers(steps: int, warmup: float) -> None:
    """Warm-up and cosine equal torch's own schedulers in sequence, to 1e-9."""
    rise = math.ceil(steps * warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rise)
    expected = []
    for step in range(steps):
        if step < rise:
            expected.append(step / rise)
            continue
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    np.testing.assert_allclose(
        [compute_lr_factor(step, steps, warmup) for step in range(steps)], expected, rtol=0, atol=1e-9
    )


class Watched(MLP):
    """Keeps the weights after each epoch."""

    def _train_epoch(self, epoch: int, *rest: Any) -> None:
        super()._train_epoch(epoch, *rest)
        self.history_ = (
            [*self.history_, self.network_.parameters.clone()] if epoch else [self.network_.parameters.clone()]
        )


@pytest.mark.parametrize("seed", range(4))
def test_early_stop_keeps_the_best_epoch(seed: int, data: Any) -> None:
    """The first epoch with the highest UA (scikit-learn's) is kept; `patience` epochs without better end it."""
    X, y = data
    held = X[100:] + 2 * np.random.default_rng(seed).standard_normal((50, 12)).astype(np.float32), y[100:]
    head = Watched(epochs=30, lr=3e-2, patience=4, hidden=8, activation="relu", random_state=seed)
    head.fit(X[:100], y[:100], validation=held)
    final = head.network_.parameters.clone()
    uas = []
    for weights in head.history_:
        head.network_.parameters.copy_(weights)
        uas.append(balanced_accuracy_score(held[1], head.predict(held[0])))
    best = int(np.argmax(uas))
    assert head.best_epoch_ == best + 1
    assert torch.equal(final, head.history_[best])
    assert len(uas) == min(30, best + 1 + 4)


def test_without_validation_every_epoch_counts(data: Any) -> None:
    """A refit trains all its epochs and keeps the last."""
    head = Watched(epochs=5, random_state=0).fit(*data)
    assert head.best_epoch_ == len(head.history_) == 5
    assert torch.equal(head.network_.parameters, head.history_[-1])


def test_each_epoch_draws_one_view_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch has rows / batch steps and sees each row once; over 200 epochs each of 1 + 3 views comes as often."""
    n, seen, steps = 40, [], []
    X = np.stack([np.arange(n), np.zeros(n)], 1).astype(np.float32)
    views = np.stack([np.stack([np.arange(n), np.full(n, k)], 1) for k in (1, 2, 3)], 1).astype(np.float32)

    def look(_: Any, x: torch.Tensor, *__: Any) -> None:
        seen.append(x.numpy().copy())
        steps.append(len(x))

    monkeypatch.setattr(mlp.Network, "backward", look)
    MLP(epochs=200, batch=16, random_state=0).fit(X, np.arange(n) % 2, views=views)
    assert steps == [16, 16, 8] * 200
    epochs = np.concatenate(seen).reshape(200, n, 2)
    assert (np.sort(epochs[:, :, 0], 1) == np.arange(n)).all()
    assert len({tuple(epoch[:, 0]) for epoch in epochs}) == 200  # another order each time
    share = np.bincount(epochs[:, :, 1].astype(int).ravel(), minlength=4) / epochs[:, :, 1].size
    np.testing.assert_allclose(share, 0.25, atol=0.025)  # 8,000 draws: 5 standard errors


def test_scaler_sees_clean_rows_only(data: Any) -> None:
    """Views and validation rows leave mean and standard deviation as those of the clean training rows."""
    X, y = data
    head = MLP(standardize=True, epochs=1, random_state=0)
    head.fit(X, y, views=X[:, None] + 50, validation=(X + 70, y))
    np.testing.assert_allclose(head.mean_, X.astype(np.float64).mean(0), atol=1e-9)
    np.testing.assert_allclose(head.scale_, X.astype(np.float64).std(0), atol=1e-9)


def test_first_weights_are_torchs_own() -> None:
    """The initial weights fill +- 1 / sqrt(in), as torch's Linear does."""
    network = mlp.Network(100, 64, 4, "none", torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for ours, reference in ((network.w1, torch.nn.Linear(100, 64)), (network.w2, torch.nn.Linear(64, 4))):
        assert abs(ours.std() / reference.weight.std() - 1) < 0.1
        assert 0.95 * reference.weight.abs().max() < ours.abs().max() <= ours.shape[0] ** -0.5


def test_unknown_class_in_validation(data: Any) -> None:
    """A class that training lacks is named."""
    X, y = data
    with pytest.raises(ValueError, match="validation holds class 'sadness'"):
        MLP(epochs=1).fit(X[y != "sadness"], y[y != "sadness"], validation=(X, y))


def test_layer_weights_follow_autograd(data: Any) -> None:
    """With 3 layers one step's gradient (weights of the layers too) equals autograd's to 1e-6, from unlike weights."""
    X, y = data
    generator = torch.Generator().manual_seed(5)
    network = mlp.Network(4, 7, 4, "gelu", generator, layers=3)
    network.mix.copy_(torch.tensor([0.5, -1.0, 0.2]))
    index, weight = torch.from_numpy(np.unique(y, return_inverse=True)[1]), torch.tensor([1.0, 2.0, 0.5, 1.5])
    target = weight[index, None] * (0.9 * torch.eye(4)[index] + 0.1 / 4)
    network.backward(torch.from_numpy(X), target, 2.0, None)
    own = [getattr(network, name).clone().requires_grad_() for name in mlp.ARRAYS]
    w1, b1, w2, b2, mix = own
    summed = (torch.softmax(mix, 0)[:, None] * torch.from_numpy(X).reshape(-1, 3, 4)).sum(1)
    loss(torch.nn.functional.gelu(summed @ w1 + b1) @ w2 + b2, index, weight, 2.0, 0.1).backward()
    for name, slow in zip(("g1", "h1", "g2", "h2", "g_mix"), own, strict=True):
        np.testing.assert_allclose(getattr(network, name).numpy(), slow.grad.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{"activation": "none"}, {"activation": "gelu", "standardize": True}])
def test_a_weighted_sum_of_layers(settings: dict[str, Any], data: Any, tmp_path: Any) -> None:
    """Of three layers the one that tells the classes apart comes to weigh most; saved, loaded and as one graph over
    the layers' features it gives the same probabilities (1e-6, 1e-5)."""
    import onnxruntime

    X, y = data
    noise = np.random.default_rng(0).standard_normal((2, *X.shape)).astype(np.float32)
    layers = np.concatenate([noise[0], X, noise[1]], axis=1)
    head = MLP(layers=3, hidden=16, epochs=15, lr=2e-2, random_state=0, **settings).fit(layers, y)
    assert sum(head.layer_weights_) == pytest.approx(1) and head.layer_weights_[1] > 0.5
    heads.save("mlp", head, tmp_path)
    again = heads.load("mlp", tmp_path)
    np.testing.assert_allclose(again.predict_proba(layers), head.predict_proba(layers), rtol=0, atol=1e-6)
    session = onnxruntime.InferenceSession(heads.to_onnx("mlp", head).SerializeToString())
    (found,) = session.run(["probabilities"], {"embedding": layers})
    np.testing.assert_allclose(found, head.predict_proba(layers), rtol=0, atol=1e-5)


def test_layers_of_one_width(data: Any) -> None:
    """12 features are no 5 layers."""
    with pytest.raises(ValueError, match="12 features, which are not 5 layers"):
        MLP(layers=5).fit(*data)
