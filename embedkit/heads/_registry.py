"""Finds the kinds of heads in this folder; builds a head from its card, and stores, loads and exports one."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from embedkit.errors import CardError, ModelError, did_you_mean
from embedkit.heads._base import Estimator, HeadModule

if TYPE_CHECKING:
    import onnx

    from embedkit import cards


FORMAT = 1  # version of the folder that `save` writes


def list_kinds() -> list[str]:
    """Every kind of head that has a module."""
    modules = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in modules if not name.startswith("_"))


def _import_kind(kind: str, error: type[CardError] | type[ModelError], where: str) -> HeadModule:
    if kind not in list_kinds():
        raise error(f"{where}: unknown kind '{kind}'{did_you_mean(kind, list_kinds())}")
    return cast(HeadModule, importlib.import_module(f"embedkit.heads.{kind}"))


def build(card: cards.Head, seed: int = 0) -> Estimator:
    """The estimator of a card, not fitted. A card's "none" stands for None, which TOML does not have, except as the
    value of `activation`.

    Raises CardError for an unknown kind or parameter (with the nearest right one) and for a value out of range.
    """
    where = _locate_card(card)
    module = _import_kind(card.kind, CardError, where)
    known = _list_parameters(module, card)
    for key in card.fixed:
        if key not in known:
            raise CardError(f"{where}: unknown parameter 'fixed.{key}'{did_you_mean(key, known)}")
    return _make_estimator(module, card.fixed, seed, where)


def check_card(card: cards.Head) -> None:
    """Check all of a card that can be checked without training: kind, views, parameters, search space.

    Raises CardError for the first thing that is wrong.
    """
    build(card)
    where = _locate_card(card)
    module = _import_kind(card.kind, CardError, where)
    if card.views not in module.VIEWS:
        raise CardError(f"{where}: views = '{card.views}': kind {card.kind} knows {' and '.join(module.VIEWS)}")
    known = _list_parameters(module, card)
    for key, space in card.search.items():
        if key not in known:
            raise CardError(f"{where}: unknown parameter 'search.{key}'{did_you_mean(key, known)}")
        for value in space.of if space.type == "choice" else (space.low, space.high):
            _make_estimator(module, {**card.fixed, key: value}, 0, f"{where}: search.{key}")


def find_rounds_parameter(card: cards.Head) -> str:
    """The parameter that lets a refit repeat an early stop without validation rows: "epochs", "n_estimators" or ""."""
    return _import_kind(card.kind, CardError, _locate_card(card)).ROUNDS


def _locate_card(card: cards.Head) -> str:
    return f"heads/{card.name}.toml" if card.name else "head"


def _list_parameters(module: HeadModule, card: cards.Head) -> list[str]:
    """The parameters that a card may set; the seed is the study's."""
    try:
        signature = inspect.signature(module.constructor(card.fixed))
    except ValueError as error:
        raise CardError(f"{_locate_card(card)}: {error}") from None
    return [*module.EXTRA_PARAMETERS, *(name for name in signature.parameters if name != "random_state")]


def _make_estimator(module: HeadModule, parameters: Mapping[str, object], seed: int, where: str) -> Estimator:
    chosen = {k: None if v == "none" and k != "activation" else v for k, v in parameters.items()}
    try:
        return module.make(chosen, seed)
    except (ValueError, TypeError) as error:
        raise CardError(f"{where}: {_format_error(error)}") from None


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split())


def save(kind: str, estimator: Estimator, folder: Path) -> None:
    """Write a fitted head as meta.json and arrays (safetensors, npz, LightGBM's text or ONNX); never a pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    extra = _import_kind(kind, ModelError, str(folder)).save(estimator, folder)
    meta = {"format": FORMAT, "kind": kind, "classes": estimator.classes_.tolist(), **extra}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def load(kind: str, folder: Path) -> Estimator:
    """A head that `save` wrote; it gives the probabilities of the one that was saved.

    Raises ModelError where the folder holds no head, a damaged one, or one of another kind or format.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        format_and_kind = (meta["format"], meta["kind"])
        if format_and_kind != (FORMAT, kind):
            raise ModelError(
                f"{folder}: a head of format and kind {format_and_kind}, expected {(FORMAT, kind)}; train it again"
            )
        return _import_kind(kind, ModelError, str(folder)).load(folder, meta)
    except ModelError:
        raise
    except Exception as error:  # each format's library has errors of its own for a damaged file
        raise ModelError(f"{folder}: no whole head of kind {kind} ({_format_error(error)}); train it again") from None


def to_onnx(kind: str, estimator: Estimator, temperature: float = 1.0) -> onnx.ModelProto:
    """A fitted head as a graph of opset 21 and IR 10.

    Input "embedding" [batch, dim] float32; outputs "logits" [batch, class] (divided by the temperature; log p for a
    head that has no logits) and their softmax, "probabilities" [batch, class].

    Raises ValueError where the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: expected a number above 0")
    return _import_kind(kind, ModelError, "to_onnx").to_onnx(estimator, temperature)
