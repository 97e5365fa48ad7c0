"""Two linear layers trained with focal loss: the paper's head (no activation between), and better-trained relatives.

The loss of a row with label y is a_y sum_c q_c (1 - p_c)^g (-log p_c), with a = balanced weights of the training rows,
q = (1 - s) onehot + s / classes, s = smoothing and g = gamma; a batch's loss is the mean over its rows (after Lin et
al., "Focal loss for dense object detection", 2017). AdamW with cosine decay after a linear warm-up, counted in steps.

At batch 16 autograd and the optimizer's bookkeeping cost more than the arithmetic. So the gradient of this small
network is written out, and all parameters lie in one tensor, which the fused AdamW updates in one pass a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from embedkit.heads._base import (
    Array,
    ClassWeight,
    HeadMeta,
    RandomState,
    Validation,
    check_views,
    compute_mean_and_scale,
    construct,
    find_classes,
    index_labels,
)
from embedkit.heads._focal import Network, Optimizer, PublicOptimizer, compute_lr_factor, make_optimizer
from embedkit.heads._onnx import make_dense_onnx
from embedkit.heads._parameters import Range, Rule, check_parameters
from embedkit.threads import one_thread

if TYPE_CHECKING:
    import onnx

VIEWS = ("clean", "draw")
ROUNDS = "epochs"
EXTRA_PARAMETERS = ()
ARRAYS = ("w1", "b1", "w2", "b2", "mix")  # of head.safetensors, as `Network` has them; mix with several layers only
RULES: Mapping[str, list[Rule]] = {
    "hidden": [Range(1, whole=True)],
    "activation": ["none", "relu", "gelu"],
    "dropout": [Range(0, 1)],
    "standardize": [bool],
    "gamma": [Range(0)],
    "smoothing": [Range(0, 1)],
    "class_weight": ["balanced", dict, None],
    "lr": [Range(0, bounds="()")],
    "weight_decay": [Range(0)],
    "warmup": [Range(0, 1)],
    "epochs": [Range(1, whole=True)],
    "batch": [Range(1, whole=True)],
    "patience": [Range(1, whole=True)],
    "layers": [Range(1, whole=True)],
}


class Meta(HeadMeta):
    """meta.json of an MLP's folder."""

    parameters: dict[str, object]  # of the constructor
    best_epoch: int


class MLP(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Focal-loss MLP. The defaults are the paper's, and ours where the paper says nothing (heads/paper.toml).

    hidden: width of the hidden layer; activation: "none", "relu" or "gelu"; dropout: the share of the hidden layer that
    is left out in training; standardize: the features, by the clean training rows; gamma, smoothing, class_weight
    ("balanced", None or a weight by class): of the loss; lr (at its peak), weight_decay: of AdamW; warmup: a share of
    all steps; patience: training ends after so many epochs without a better validation UA; layers: X holds so many
    layers one after another, and the head learns the weight of each (`layer_weights_`).

    With validation the weights of the epoch with the best UA are kept, without it those of the last; `best_epoch_`
    counts from 1. Deterministic by random_state: training runs on one thread.
    """

    def __init__(
        self,
        hidden: int = 256,
        activation: str = "none",
        dropout: float = 0.0,
        standardize: bool = False,
        gamma: float = 2.0,
        smoothing: float = 0.1,
        class_weight: ClassWeight = "balanced",
        lr: float = 5e-5,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        epochs: int = 25,
        batch: int = 16,
        patience: int = 6,
        layers: int = 1,
        random_state: RandomState = None,
    ):
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.standardize = standardize
        self.gamma = gamma
        self.smoothing = smoothing
        self.class_weight = class_weight
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.epochs = epochs
        self.batch = batch
        self.patience = patience
        self.layers = layers
        self.random_state = random_state

    def fit(self, X: Array, y: Array, *, views: Array | None = None, validation: Validation | None = None) -> MLP:
        """X [row, dim], y [row]. With views [row, K, dim] each epoch draws one of the 1 + K views of each row."""
        check_parameters(self, RULES)
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_views(X, views)
        if X.shape[1] % self.layers:
            raise ValueError(f"X has {X.shape[1]} features, which are not {self.layers} layers of one width")
        self.classes_, index = find_classes(y)
        self.mean_, self.scale_ = compute_mean_and_scale(X, self.standardize)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        generator = torch.Generator().manual_seed(int(seed))
        pool = X[:, None] if views is None else np.concatenate([X[:, None], views], axis=1, dtype=np.float32)
        with one_thread(blas=False), torch.no_grad():
            self.network_ = self._build_network(generator)
            prepared = None if validation is None else self._prepare_validation(*validation)
            self._train_network(self._scale_features(pool), self._build_target(index), prepared, generator)
        return self

    def _build_network(self, generator: torch.Generator) -> Network:
        dim = self.n_features_in_ // self.layers
        return Network(dim, self.hidden, len(self.classes_), self.activation, generator, self.layers)

    @property
    def layer_weights_(self) -> list[float]:
        """The weight of each layer [layers]; their sum is 1."""
        return [float(weight) for weight in self.network_.weights()]

    def _scale_features(self, X: Array) -> Tensor:
        if self.standardize:
            X = X - self.mean_.astype(np.float32)
            X /= self.scale_.astype(np.float32)  # in place: with five views this copy is 50 MB
        return torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32))

    def _build_target(self, index: Array) -> Tensor:
        """a_y q of every row [row, class]."""
        weight = compute_sample_weight(self.class_weight, self.classes_[index])
        onehot = np.eye(len(self.classes_))[index]
        smooth = (1 - self.smoothing) * onehot + self.smoothing / len(self.classes_)
        return torch.from_numpy(weight[:, None] * smooth).float()

    def _prepare_validation(self, X: Array, y: Array) -> tuple[Tensor, Array]:
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return self._scale_features(X), index_labels(self.classes_, np.asarray(y))

    def _train_network(
        self, pool: Tensor, target: Tensor, validation: tuple[Tensor, Array] | None, generator: torch.Generator
    ) -> None:
        """Train on every view of every row [row, 1 + K, dim]. The network is left with the best epoch's weights."""
        network = self.network_
        optimizer = make_optimizer(network.parameters, network.gradient, self.weight_decay)
        best_ua, best_parameters, self.best_epoch_ = -1.0, network.parameters, self.epochs
        for epoch in range(self.epochs):
            self._train_epoch(epoch, pool, target, optimizer, generator)
            if validation is None:
                continue
            ua = _compute_ua(validation[1], network.compute_logits(validation[0]).argmax(1).numpy())
            if ua > best_ua:
                best_ua, best_parameters, self.best_epoch_ = ua, network.parameters.clone(), epoch + 1
            elif epoch + 1 - self.best_epoch_ >= self.patience:
                break
        network.parameters.copy_(best_parameters)

    def _train_epoch(
        self,
        epoch: int,
        pool: Tensor,
        target: Tensor,
        optimizer: Optimizer | PublicOptimizer,
        generator: torch.Generator,
    ) -> None:
        """One pass over the rows [row, 1 + K, dim] in random order, each by one of its views, drawn anew."""
        rows, views, dim = pool.shape
        per_epoch = math.ceil(rows / self.batch)
        order = torch.randperm(rows, generator=generator)
        places = order * views + torch.randint(views, (rows,), generator=generator) if views > 1 else order
        flat, keep = pool.view(-1, dim), 1 - self.dropout
        for step, (at, row) in enumerate(
            zip(torch.split(places, self.batch), torch.split(order, self.batch), strict=True)
        ):
            mask = None
            if self.dropout:
                mask = torch.empty(len(row), self.hidden).bernoulli_(keep, generator=generator).div_(keep)
            self.network_.backward(flat.index_select(0, at), target.index_select(0, row), self.gamma, mask)
            optimizer.step(self.lr * compute_lr_factor(epoch * per_epoch + step, self.epochs * per_epoch, self.warmup))

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], float32."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        with one_thread(blas=False), torch.no_grad():
            return torch.softmax(self.network_.compute_logits(self._scale_features(X)), 1).numpy()

    def predict(self, X: Array) -> Array:
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])


def _compute_ua(truth: Array, predicted: Array) -> float:
    """Mean of the recalls of the classes present in truth; both hold places in `classes_` [row]."""
    present = np.bincount(truth)
    right = np.bincount(truth[truth == predicted], minlength=len(present))
    return float((right[present > 0] / present[present > 0]).mean())


def constructor(_: Mapping[str, object]) -> type[MLP]:
    """`MLP`: a card may set its parameters."""
    return MLP


def make(parameters: Mapping[str, object], seed: int) -> MLP:
    """An MLP that is not fitted. Raises ValueError for a value out of range."""
    estimator = construct(MLP, parameters, random_state=seed)
    check_parameters(estimator, RULES)
    return estimator


def save(estimator: MLP, folder: Path) -> dict[str, object]:
    """Write head.safetensors: the network's arrays, mean and scale. See `Meta` for what is returned."""
    from safetensors.numpy import save_file

    network = estimator.network_
    arrays = {name: getattr(network, name).numpy() for name in _list_arrays(estimator)}
    save_file({**arrays, "mean": estimator.mean_, "scale": estimator.scale_}, folder / "head.safetensors")
    return {"parameters": estimator.get_params(), "best_epoch": estimator.best_epoch_}


def _list_arrays(estimator: MLP) -> tuple[str, ...]:
    return ARRAYS if estimator.layers > 1 else ARRAYS[:-1]


def load(folder: Path, meta: Meta) -> MLP:
    """The MLP that `save` wrote."""
    from safetensors.numpy import load_file

    arrays = load_file(folder / "head.safetensors")
    estimator = construct(MLP, meta["parameters"])
    estimator.classes_ = np.array(meta["classes"])
    estimator.best_epoch_ = meta["best_epoch"]
    estimator.mean_, estimator.scale_ = arrays["mean"], arrays["scale"]
    estimator.n_features_in_ = len(estimator.mean_)
    estimator.network_ = estimator._build_network(torch.Generator())
    for name in _list_arrays(estimator):
        getattr(estimator.network_, name).copy_(torch.from_numpy(arrays[name]))
    return estimator


def to_onnx(estimator: MLP, temperature: float) -> onnx.ModelProto:
    """Two Gemms, the first with the layers' weights and the scaler in it; without an activation both become one."""
    network = estimator.network_
    w1, b1, w2, b2 = (getattr(network, name).numpy().astype(np.float64) for name in ("w1", "b1", "w2", "b2"))
    w1 = np.kron(np.array(estimator.layer_weights_)[:, None], w1)
    layers = [(w1 @ w2, b1 @ w2 + b2)] if network.activation == "none" else [(w1, b1), (w2, b2)]
    activation = {"none": "", "relu": "Relu", "gelu": "Gelu"}[network.activation]
    return make_dense_onnx(layers, activation, estimator.mean_, estimator.scale_, temperature)
