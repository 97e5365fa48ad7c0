"""Training: each head against the loop or library that one would use otherwise, and whole studies from a warm cache."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from embedkit.bench._material import Size, make_cache, make_features
from embedkit.bench._measure import make_ratio_row, run_command, time_in_turns
from embedkit.bench._page import Row, format_number
from embedkit.threads import one_thread

if TYPE_CHECKING:
    import torch

    from embedkit import cards
    from embedkit.heads import Estimator

TITLE = "Heads"
HOW = (
    "A fold of IEMOCAP's size with CREMA-D mixed in: 8,200 rows of 768 features, made up with the spread of an"
    " encoder's. CPU time of one thread each, in turns; the verbs at the end: wall time from process start to exit."
)
LIGHTGBM_DEFAULTS = {  # of LightGBM itself
    "n_estimators": 100,
    "learning_rate": 0.1,
    "num_leaves": 31,
    "max_bin": 255,
    "feature_fraction": 1.0,
    "min_child_samples": 20,
}
FOLDS = 5


def rows(size: Size) -> Iterator[Row]:
    """The MLP, logistic regression and LightGBM on one fold, then whole studies."""
    with one_thread():
        yield from _measure_mlp(size)
        yield from _measure_logistic(size)
        yield from _measure_lightgbm(size)
    yield from _measure_verbs(size)


def read_shipped_card(name: str) -> cards.Head:
    """The card of a head that comes with embedkit."""
    from embedkit import cards
    from embedkit.workspace import init_workspace

    with tempfile.TemporaryDirectory() as folder:
        return cards.read(cards.Head, init_workspace(Path(folder) / "home").card("heads", name))


# ---------------------------------------------------------------- the paper's MLP


def _measure_mlp(size: Size) -> Iterator[Row]:
    from embedkit import heads

    X, y = make_features(size.train, size.dim)
    index = np.unique(y, return_inverse=True)[1]
    paper = read_shipped_card("paper")
    ours = paper.model_copy(update={"fixed": {**paper.fixed, "epochs": size.epochs}})
    settings = cast(Mapping[str, float], paper.fixed)  # those that are used are numbers
    calls: dict[str, Callable[[], object]] = {
        "eager": lambda: train_eagerly(X, index, size.epochs, settings),
        "ours": lambda: heads.build(ours).fit(X, y),
    }
    timings = time_in_turns(calls, size.repeats)
    yield make_ratio_row(
        "the paper's MLP (batch 16) against an eager torch loop",
        timings["eager"],
        timings["ours"],
        floor=2.2,
        unit="times",
    )
    yield make_ratio_row(
        "the paper's MLP, 25 epochs",
        [25 / size.epochs * s for s in timings["ours"]],
        [1.0] * size.repeats,
        unit="CPU-s a fold",
    )


def train_eagerly(
    X: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    epochs: int,
    settings: Mapping[str, float],
    net: torch.nn.Module | None = None,
) -> torch.nn.Module:
    """The loop that one would write: autograd, AdamW, a scheduler, and the MLP's focal loss. Returns the network.

    y: places of classes [row]. settings: the MLP's hidden, lr, weight_decay, warmup, batch, gamma and smoothing. net:
    the network to begin with; None: a new one.
    """
    import torch

    torch.manual_seed(0)
    count, classes = len(X), int(y.max()) + 1
    hidden, batch, smooth = int(settings["hidden"]), int(settings["batch"]), settings["smoothing"]
    net = net or torch.nn.Sequential(torch.nn.Linear(X.shape[1], hidden), torch.nn.Linear(hidden, classes))
    weight = torch.tensor(count / (classes * np.bincount(y)), dtype=torch.float32)
    inputs, truth = torch.from_numpy(X), torch.from_numpy(y)
    steps = epochs * math.ceil(count / batch)
    rise = math.ceil(steps * settings["warmup"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: s / rise if s < rise else 0.5 * (1 + math.cos(math.pi * (s - rise) / max(1, steps - rise))),
    )
    for _ in range(epochs):
        for i in torch.randperm(count).split(batch):  # type: ignore[no-untyped-call]
            log_p = torch.log_softmax(net(inputs[i]), 1)
            q = torch.full_like(log_p, smooth / classes).scatter_(1, truth[i][:, None], 1 - smooth + smooth / classes)
            loss = (weight[truth[i]] * (q * (1 - log_p.exp()) ** settings["gamma"] * -log_p).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net


# ---------------------------------------------------------------- logistic regression and LightGBM


def _measure_logistic(size: Size) -> Iterator[Row]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from embedkit import heads

    X, y = make_features(size.train * FOLDS // (FOLDS - 1), size.dim)
    fold = np.arange(len(X)) % FOLDS
    head = read_shipped_card("logistic")
    predicted: dict[str, list[npt.NDArray[np.str_]]] = {"library": [], "ours": []}

    def fit_and_predict(name: str, model: Estimator, dtype: type[np.floating]) -> None:
        """Fit on the next fold, and predict its test rows."""
        test = fold == len(predicted[name]) % FOLDS
        predicted[name].append(model.fit(X[~test].astype(dtype), y[~test]).predict(X[test]))

    def make_library_head() -> Estimator:
        regression = LogisticRegression(C=0.05, class_weight="balanced", max_iter=1000)
        return cast("Estimator", make_pipeline(StandardScaler(), regression))

    calls: dict[str, Callable[[], object]] = {
        "library": lambda: fit_and_predict("library", make_library_head(), np.float64),
        "ours": lambda: fit_and_predict("ours", heads.build(head), np.float32),
    }
    timings = time_in_turns(calls, size.repeats)
    same = np.concatenate(predicted["library"]) == np.concatenate(predicted["ours"])
    yield make_ratio_row(
        "logistic regression against scikit-learn, a fold a round",
        timings["library"],
        timings["ours"],
        floor=2.0,
        unit="times",
    )
    yield Row("the same: labels that are equal", 100 * float(same.mean()), "%", floor=99)
    yield make_ratio_row("logistic regression", timings["ours"], [1.0] * size.repeats, unit="CPU-s a fold")


def _measure_lightgbm(size: Size) -> Iterator[Row]:
    from embedkit import heads, metrics

    X, y = make_features(size.train + 2_000, size.dim)
    train, validate, test = (slice(size.train), slice(size.train, -1_000), slice(-1_000, None))
    card = read_shipped_card("lightgbm")
    defaults = card.model_copy(update={"fixed": LIGHTGBM_DEFAULTS})
    ua_by_name: dict[str, float] = {}

    def fit_and_score(name: str, head: cards.Head, rows: slice | None) -> None:
        validation = (X[rows], y[rows]) if rows else None
        fitted = heads.build(head).fit(X[train], y[train], validation=validation)
        ua_by_name[name] = metrics.ua(y[test], fitted.predict(X[test]))

    calls: dict[str, Callable[[], object]] = {
        "card": lambda: fit_and_score("card", card, validate),
        "defaults": lambda: fit_and_score("defaults", defaults, None),
    }
    timings = time_in_turns(calls, size.repeats if size.full else 1)  # the defaults take a minute
    yield make_ratio_row(
        "LightGBM's card against LightGBM's defaults",
        timings["defaults"],
        timings["card"],
        floor=5,
        unit="times",
        note="" if size.full else "one round; --full: five",
    )
    yield Row(
        "the same: UA given up",
        100 * (ua_by_name["defaults"] - ua_by_name["card"]),
        "points",
        floor=0.5,
        most=True,
        note=f"{format_number(ua_by_name['defaults'])} by the defaults on these made-up features",
    )
    yield make_ratio_row("LightGBM's card", timings["card"], [1.0] * len(timings["card"]), unit="CPU-s a fold")


# ---------------------------------------------------------------- whole studies


def _measure_verbs(size: Size) -> Iterator[Row]:
    from embedkit.workspace import init_workspace

    with tempfile.TemporaryDirectory() as folder:
        workspace = init_workspace(Path(folder) / "home")
        make_cache(workspace, "iemocap", size.sessions, size.dim)
        make_cache(workspace, "crema-d", [size.mixed], size.dim)
        study = ["-m", "embedkit", "--workspace", str(workspace.root), "study"]
        usage = run_command(*study, "paper-table-2", "--json", memory=True)
        yield Row(
            "paper-table-2 from a warm cache",
            usage.seconds,
            "s",
            floor=60,
            most=True,
            note=f"{format_number(usage.cpu)} CPU-s, {format_number(usage.megabytes or math.nan)} MB at most",
        )
        if size.full:
            search = ["--head", "mlp", "--trials", "100", "--name", "searched"]
            yield Row(
                "100 trials of the MLP over five folds",
                run_command(*study, *search).seconds / 60,
                "minutes",
                aim=5,
                most=True,
            )
