"""Heads: small classifiers on pooled features, each a scikit-learn estimator; being in the folder is the registration.

A head fits features X [row, dim] and class names y [row]. `views` [row, K, dim] are augmented views of the same rows;
`validation` (X, y) is there to stop early and is never trained on. What its siblings share lies here.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from embedkit.errors import CardError, ModelError, did_you_mean

if TYPE_CHECKING:
    import onnx

    from embedkit import cards

Array = npt.NDArray[Any]
Validation = tuple[Array, Array]

FORMAT = 1  # of the folder that `save` writes
OPSET, IR = 21, 10


class Estimator(Protocol):
    """What a study asks of a head. `best_epoch_` or `best_iteration_` says where early stopping ended, where it did."""

    classes_: Array

    def fit(
        self, X: Array, y: Array, *, views: Array | None = None, validation: Validation | None = None
    ) -> Estimator: ...

    def predict(self, X: Array) -> Array: ...

    def predict_proba(self, X: Array) -> Array:
        """Probabilities [row, class], columns as in `classes_` (sorted, so the four names lie in CLASSES' order)."""
        ...


class Module(Protocol):
    """What a module of this folder offers."""

    VIEWS: tuple[str, ...]  # what a card of this kind may say under `views`
    ROUNDS: str  # the parameter that repeats an early stop on all rows ("epochs"), "" where there is none

    def constructor(self, fixed: Mapping[str, Any]) -> Callable[..., Any]:
        """The class or function whose parameters a card may set; ValueError where the card names none."""
        ...

    def make(self, parameters: dict[str, Any], seed: int) -> Any:
        """An estimator that is not fitted; ValueError or TypeError for a value out of range."""
        ...

    def save(self, estimator: Any, folder: Path) -> dict[str, Any]:
        """Write the fitted arrays; returns what goes into meta.json beside them."""
        ...

    def load(self, folder: Path, meta: dict[str, Any]) -> Any: ...

    def to_onnx(self, estimator: Any, temperature: float) -> onnx.ModelProto: ...


# ---------------------------------------------------------------- cards


def kinds() -> list[str]:
    """Every kind of head that has a module."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _module(kind: str, error: type[CardError] | type[ModelError], where: str) -> Module:
    if kind not in kinds():
        raise error(f"{where}: unknown kind '{kind}'{did_you_mean(kind, kinds())}")
    return cast(Module, importlib.import_module(f"{__name__}.{kind}"))


def build(card: cards.Head, seed: int = 0) -> Estimator:
    """The estimator of a card, not fitted. In a card "none" stands for None, which TOML has not
    (but for `activation`, where it is a value of its own).

    Raises CardError for an unknown kind or parameter (with the nearest right one) and for a value out of range.
    """
    where = _where(card)
    module = _module(card.kind, CardError, where)
    known = _known(module, card)
    for key in card.fixed:
        if key not in known:
            raise CardError(f"{where}: unknown parameter 'fixed.{key}'{did_you_mean(key, known)}")
    return _make(module, card.fixed, seed, where)


def check(card: cards.Head) -> None:
    """Everything that can be wrong with a card and shows without training: kind, views, parameters, search space.

    Raises CardError.
    """
    build(card)
    where = _where(card)
    module = _module(card.kind, CardError, where)
    if card.views not in module.VIEWS:
        raise CardError(f"{where}: views = '{card.views}': kind {card.kind} knows {' and '.join(module.VIEWS)}")
    known = _known(module, card)
    for key, space in card.search.items():
        if key not in known:
            raise CardError(f"{where}: unknown parameter 'search.{key}'{did_you_mean(key, known)}")
        for value in space.of if space.type == "choice" else (space.low, space.high):
            _make(module, {**card.fixed, key: value}, 0, f"{where}: search.{key}")


def rounds(card: cards.Head) -> str:
    """The parameter with which a refit repeats an early stop without validation: "epochs", "n_estimators" or ""."""
    return _module(card.kind, CardError, _where(card)).ROUNDS


def _where(card: cards.Head) -> str:
    return f"heads/{card.name}.toml" if card.name else "head"


def _known(module: Module, card: cards.Head) -> list[str]:
    """The parameters that a card may set; the seed is the study's."""
    try:
        signature = inspect.signature(module.constructor(card.fixed))
    except ValueError as error:
        raise CardError(f"{_where(card)}: {error}") from None
    own = ["estimator", "standardize"] if card.kind == "sklearn" else []
    return own + [name for name in signature.parameters if name != "random_state"]


def _make(module: Module, parameters: Mapping[str, Any], seed: int, where: str) -> Estimator:
    chosen = {k: None if v == "none" and k != "activation" else v for k, v in parameters.items()}
    try:
        return cast(Estimator, module.make(chosen, seed))
    except (ValueError, TypeError) as error:
        raise CardError(f"{where}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# ---------------------------------------------------------------- files


def save(kind: str, estimator: Estimator, folder: Path) -> None:
    """Write a fitted head as meta.json and arrays (safetensors, npz, LightGBM's text or ONNX); never a pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    extra = _module(kind, ModelError, str(folder)).save(estimator, folder)
    meta = {"format": FORMAT, "kind": kind, "classes": estimator.classes_.tolist(), **extra}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def load(kind: str, folder: Path) -> Estimator:
    """A head that `save` wrote; it gives the probabilities of the one that was saved.

    Raises ModelError where the folder holds none, or one of another kind or format.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        found = (meta["format"], meta["kind"])
        if found != (FORMAT, kind):
            raise ModelError(f"{folder}: a head of format and kind {found}, expected {(FORMAT, kind)}; train it again")
        return cast(Estimator, _module(kind, ModelError, str(folder)).load(folder, meta))
    except ModelError:
        raise
    except Exception as error:  # each format's library has errors of its own for a damaged file
        raise ModelError(f"{folder}: no whole head of kind {kind} ({_one_line(error)}); train it again") from None


# ---------------------------------------------------------------- ONNX


def to_onnx(kind: str, estimator: Estimator, temperature: float = 1.0) -> onnx.ModelProto:
    """A fitted head as a graph of opset 21 and IR 10.

    Input "embedding" [batch, dim] float32; outputs "logits" [batch, class] (divided by the temperature; log p for a
    head that has no other) and "probabilities" [batch, class], which is their softmax.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: expected a number above 0")
    return _module(kind, ModelError, "to_onnx").to_onnx(estimator, temperature)


def dense_onnx(
    layers: list[tuple[Array, Array]], activation: str, mean: Array, scale: Array, temperature: float
) -> onnx.ModelProto:
    """Layers of (weight [in, out], bias [out]) with one activation ("Relu", "Gelu") between, then a softmax.

    The features' mean and scale [dim] go into the first layer, the temperature into the last.
    """
    from onnx import helper, numpy_helper

    weight, bias = layers[-1]
    layers = [*layers[:-1], (weight / temperature, bias / temperature)]
    weight, bias = layers[0]
    layers[0] = weight / scale[:, None], bias - (mean / scale) @ weight
    nodes, tensors, flow = [], [], "embedding"
    for i, (weight, bias) in enumerate(layers):
        tensors += [numpy_helper.from_array(weight.astype(np.float32), f"weight{i}")]
        tensors += [numpy_helper.from_array(bias.astype(np.float32), f"bias{i}")]
        last = i == len(layers) - 1
        out = "logits" if last else f"linear{i}"
        nodes.append(helper.make_node("Gemm", [flow, f"weight{i}", f"bias{i}"], [out], name=f"gemm{i}"))
        if not last:
            flow = f"active{i}"
            nodes.append(helper.make_node(activation, [out], [flow], name=f"activation{i}"))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1))
    return _model(nodes, tensors, len(mean), len(bias))


def skl_onnx(estimator: Any, dim: int, classes: int, temperature: float) -> onnx.ModelProto:
    """Any estimator that skl2onnx can convert: its probabilities, their logarithm as logits, softmax(logits / T)."""
    from onnx import helper, numpy_helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it reads attributes of SVC that scikit-learn will rename
        graph = convert_sklearn(
            estimator,
            initial_types=[("embedding", FloatTensorType([None, dim]))],
            target_opset={"": OPSET, "ai.onnx.ml": 3},
            options={id(estimator): {"zipmap": False}},
        )
    graph = select_model_inputs_outputs(graph, ["probabilities"]).graph  # without what only the label needs
    for node in graph.node:
        node.output[:] = ["source_probabilities" if name == "probabilities" else name for name in node.output]
    used = {name for node in graph.node for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    for name, value in (("smallest", np.finfo(np.float32).tiny), ("temperature", temperature)):
        tensors.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))  # log 0 is -inf
    nodes = [
        *graph.node,
        helper.make_node("Max", ["source_probabilities", "smallest"], ["positive"], name="max"),
        helper.make_node("Log", ["positive"], ["log_probabilities"], name="log"),
        helper.make_node("Div", ["log_probabilities", "temperature"], ["logits"], name="divide"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1),
    ]
    return _model(nodes, tensors, dim, classes)


def _model(nodes: list[Any], tensors: list[Any], dim: int, classes: int) -> onnx.ModelProto:
    """One graph with the heads' input and outputs, checked."""
    from onnx import TensorProto, checker, helper

    def value(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    outputs = [value("logits", classes), value("probabilities", classes)]
    graph = helper.make_graph(nodes, "head", [value("embedding", dim)], outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="embedkit")
    checker.check_model(model, full_check=True)
    return model


# ---------------------------------------------------------------- what the kinds share


def standard(X: Array, on: bool = True) -> tuple[Array, Array]:
    """Mean and standard deviation of each column (1 where it is constant), float64; 0 and 1 where not `on`."""
    if not on:
        return np.zeros(X.shape[1]), np.ones(X.shape[1])
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X.astype(np.float64, copy=False))
    return scaler.mean_, scaler.scale_


def stack(X: Array, y: Array, views: Array | None) -> tuple[Array, Array, Array, Array]:
    """Rows and their K views below each other: X [row * (1 + K), dim], y, weights 1 / (1 + K), the row of each."""
    rows = np.arange(len(X))
    if views is None:
        return X, y, np.ones(len(X)), rows
    copies = 1 + views.shape[1]
    everything = np.concatenate([X[:, None], views], axis=1).reshape(-1, X.shape[1])
    return everything, np.repeat(y, copies), np.full(len(everything), 1 / copies), np.repeat(rows, copies)


def check_views(X: Array, views: Array | None) -> None:
    """ValueError unless views are [row, K, dim] of the same rows."""
    if views is not None and (views.ndim != 3 or views.shape[::2] != X.shape):
        raise ValueError(f"views have shape {views.shape}, expected ({len(X)}, K, {X.shape[1]})")


def class_index(classes: Array, y: Array) -> npt.NDArray[np.int64]:
    """The place of each label in `classes` (sorted). ValueError for a label that training does not have."""
    strange = np.setdiff1d(y, classes)
    if len(strange):
        raise ValueError(f"validation holds class '{strange[0]}', which the training rows do not")
    return np.searchsorted(classes, y)


def two_classes(y: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """The sorted classes of y, and the place of each label in them. ValueError where there is only one."""
    from sklearn.utils.multiclass import check_classification_targets

    check_classification_targets(y)
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs two classes, the training rows hold only one class: '{classes[0]}'")
    return classes, index
