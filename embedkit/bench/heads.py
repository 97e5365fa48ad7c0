"""Training: each head against the loop or the library that one would use, and the paper's table from a warm cache."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.bench._material import Size, cached, features
from embedkit.bench._measure import command, interleaved, ratio
from embedkit.bench._page import Row, shown
from embedkit.threads import one_thread

TITLE = "Heads"
HOW = (
    "A fold of IEMOCAP's size with CREMA-D mixed in: 8,200 rows of 768 features, made up with the spread of an"
    " encoder's. CPU time of one thread each, in turns; the verbs at the end: wall time from process start to exit."
)
DEFAULTS = {  # LightGBM's own
    "n_estimators": 100, "learning_rate": 0.1, "num_leaves": 31, "max_bin": 255, "feature_fraction": 1.0,
    "min_child_samples": 20,
}  # fmt: skip
FOLDS = 5


def rows(size: Size) -> Iterator[Row]:
    with one_thread():
        yield from _mlp(size)
        yield from _logistic(size)
        yield from _lightgbm(size)
    yield from _verbs(size)


def card(name: str) -> Any:
    """A head's card as the package ships it."""
    from embedkit import cards
    from embedkit.workspace import init

    with tempfile.TemporaryDirectory() as folder:
        return cards.read(cards.Head, init(Path(folder) / "home").card("heads", name))


# ---------------------------------------------------------------- the paper's MLP


def _mlp(size: Size) -> Iterator[Row]:
    from embedkit import heads

    X, y = features(size.train, size.dim)
    index = np.unique(y, return_inverse=True)[1]
    paper = card("paper")
    shape = {k: paper.fixed[k] for k in ("hidden", "lr", "weight_decay", "warmup", "batch", "gamma", "smoothing")}
    ours = paper.model_copy(update={"fixed": {**paper.fixed, "epochs": size.epochs}})
    calls = {
        "eager": lambda: eager(X, index, size.epochs, shape),
        "ours": lambda: heads.build(ours).fit(X, y),
    }
    taken = interleaved(calls, size.repeats)
    yield ratio("the paper's MLP (batch 16) against an eager torch loop", taken["eager"], taken["ours"],
                floor=2.2, unit="times")  # fmt: skip
    yield ratio("the paper's MLP, 25 epochs", [25 / size.epochs * s for s in taken["ours"]], [1.0] * size.repeats,
                unit="CPU-s a fold")  # fmt: skip


def eager(X: Any, y: Any, epochs: int, shape: Mapping[str, Any], net: Any = None) -> Any:
    """The loop that one would write: autograd, AdamW, a scheduler, the contract's focal loss. Returns the network."""
    import torch

    torch.manual_seed(0)
    count, classes = len(X), int(y.max()) + 1
    sizes = ((X.shape[1], shape["hidden"]), (shape["hidden"], classes))
    net = net or torch.nn.Sequential(*(torch.nn.Linear(*size) for size in sizes))
    weight = torch.tensor(count / (classes * np.bincount(y)), dtype=torch.float32)
    inputs, truth = torch.from_numpy(X), torch.from_numpy(y)
    steps = epochs * math.ceil(count / shape["batch"])
    rise = math.ceil(steps * shape["warmup"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=shape["lr"], weight_decay=shape["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: s / rise if s < rise else 0.5 * (1 + math.cos(math.pi * (s - rise) / max(1, steps - rise))),
    )
    smooth = shape["smoothing"]
    for _ in range(epochs):
        for i in torch.randperm(count).split(shape["batch"]):  # type: ignore[no-untyped-call]
            log_p = torch.log_softmax(net(inputs[i]), 1)
            q = torch.full_like(log_p, smooth / classes).scatter_(1, truth[i][:, None], 1 - smooth + smooth / classes)
            loss = (weight[truth[i]] * (q * (1 - log_p.exp()) ** shape["gamma"] * -log_p).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


# ---------------------------------------------------------------- logistic regression and LightGBM


def _logistic(size: Size) -> Iterator[Row]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from embedkit import heads

    X, y = features(size.train * FOLDS // (FOLDS - 1), size.dim)
    fold = np.arange(len(X)) % FOLDS
    head = card("logistic")
    said: dict[str, list[Any]] = {"library": [], "ours": []}

    def fit(name: str, model: Any, dtype: Any) -> None:
        """A fold a round, in turns."""
        test = fold == len(said[name]) % FOLDS
        said[name].append(model.fit(X[~test].astype(dtype), y[~test]).predict(X[test]))

    def library() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.05, class_weight="balanced", max_iter=1000))

    calls = {
        "library": lambda: fit("library", library(), np.float64),
        "ours": lambda: fit("ours", heads.build(head), np.float32),
    }
    taken = interleaved(calls, size.repeats)
    same = np.concatenate(said["library"]) == np.concatenate(said["ours"])
    yield ratio("logistic regression against scikit-learn, a fold a round", taken["library"], taken["ours"],
                floor=2.0, unit="times")  # fmt: skip
    yield Row("the same: labels that are equal", 100 * float(same.mean()), "%", floor=99)
    yield ratio("logistic regression", taken["ours"], [1.0] * size.repeats, unit="CPU-s a fold")


def _lightgbm(size: Size) -> Iterator[Row]:
    from embedkit import heads, metrics

    X, y = features(size.train + 2_000, size.dim)
    train, held, test = (slice(size.train), slice(size.train, -1_000), slice(-1_000, None))
    ours = card("lightgbm")
    theirs = ours.model_copy(update={"fixed": DEFAULTS})
    said: dict[str, float] = {}

    def fit(name: str, head: Any, **more: Any) -> None:
        said[name] = metrics.ua(y[test], heads.build(head).fit(X[train], y[train], **more).predict(X[test]))

    calls = {
        "card": lambda: fit("card", ours, validation=(X[held], y[held])),
        "defaults": lambda: fit("defaults", theirs),
    }
    taken = interleaved(calls, size.repeats if size.full else 1)  # the defaults take a minute
    yield ratio("LightGBM's card against LightGBM's defaults", taken["defaults"], taken["card"], floor=5, unit="times",
                note="" if size.full else "one round; --full: five")  # fmt: skip
    yield Row("the same: UA given up", 100 * (said["defaults"] - said["card"]), "points", floor=0.5, most=True,
              note=f"{shown(said['defaults'])} by the defaults on these made-up features")  # fmt: skip
    yield ratio("LightGBM's card", taken["card"], [1.0] * len(taken["card"]), unit="CPU-s a fold")


# ---------------------------------------------------------------- whole studies


def _verbs(size: Size) -> Iterator[Row]:
    from embedkit.workspace import init

    with tempfile.TemporaryDirectory() as folder:
        workspace = init(Path(folder) / "home")
        cached(workspace, "iemocap", size.sessions, size.dim)
        cached(workspace, "crema-d", [size.mixed], size.dim)
        study = ["-m", "embedkit", "--workspace", str(workspace.root), "study"]
        ran = command(*study, "paper-table-2", "--json", memory=True)
        yield Row("paper-table-2 from a warm cache", ran.seconds, "s", floor=60, most=True,
                  note=f"{shown(ran.cpu)} CPU-s, {shown(ran.megabytes or math.nan)} MB at most")  # fmt: skip
        if size.full:
            search = ["--head", "mlp", "--trials", "100", "--name", "searched"]
            yield Row("100 trials of the MLP over five folds", command(*study, *search).seconds / 60, "minutes",
                      aim=5, most=True)  # fmt: skip
