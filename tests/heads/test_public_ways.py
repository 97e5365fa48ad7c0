"""What heads do where a private interface of another library is not there, or not as we know it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.utils import all_estimators

from embedkit.heads import _focal
from embedkit.heads._parameters import Range, check_library_parameters, check_parameters
from embedkit.heads.lightgbm import RULES as LIGHTGBM_RULES
from embedkit.heads.lightgbm import LightGBM
from embedkit.heads.mlp import MLP
from embedkit.heads.mlp import RULES as MLP_RULES

# ---------------------------------------------------------------- torch's fused AdamW


@pytest.fixture
def fresh_trial() -> Iterator[None]:
    """Whether the kernel works is tried anew, and again after the test."""
    _focal.has_fused_kernel.cache_clear()
    yield
    _focal.has_fused_kernel.cache_clear()


def fit_mlp(**settings: Any) -> torch.Tensor:
    """The parameters of an MLP after 3 epochs of 10 steps, with weight decay."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((150, 12)).astype(np.float32), rng.choice(["anger", "neutral", "sadness"], 150)
    head = MLP(hidden=20, epochs=3, lr=1e-2, weight_decay=0.1, activation="gelu", random_state=1, **settings)
    return head.fit(X, y).network_.parameters


@pytest.mark.usefixtures("fresh_trial")
def test_the_kernel_is_used_where_it_works() -> None:
    assert _focal.has_fused_kernel()
    optimizer = _focal.make_optimizer(torch.zeros(3), torch.ones(3), 0.0)
    assert isinstance(optimizer, _focal.Optimizer)


def call_with_another_signature(*tensors: Any, lr: float, betas: tuple[float, float]) -> None:
    """A kernel as it might be some day."""


def step_too_far(parameters: list[torch.Tensor], *_: Any, **__: Any) -> None:
    """A kernel that takes the arguments in another sense."""
    parameters[0].add_(1)


@pytest.mark.usefixtures("fresh_trial")
@pytest.mark.parametrize("kernel", [None, call_with_another_signature, step_too_far])
def test_without_the_kernel_the_weights_are_the_same(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, of another signature, or of other results: torch.optim.AdamW gives the same weights to 1e-6.

    Its own fused way is left out here, as it calls the very function that is missing in this test.
    """
    expected = fit_mlp().clone()
    _focal.has_fused_kernel.cache_clear()
    if kernel is None:
        monkeypatch.delattr(torch, "_fused_adamw_")
    else:
        monkeypatch.setattr(torch, "_fused_adamw_", kernel)
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **settings: plain(*args, **{**settings, "fused": False}))
    assert not _focal.has_fused_kernel()
    np.testing.assert_allclose(fit_mlp().numpy(), expected.numpy(), rtol=0, atol=1e-6)


def test_the_public_optimizer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.optim's fused AdamW, as `PublicOptimizer` asks for it, gives the kernel's weights to 1e-6."""
    expected = fit_mlp().clone()
    monkeypatch.setattr(_focal, "has_fused_kernel", lambda: False)
    assert isinstance(_focal.make_optimizer(torch.zeros(3), torch.ones(3), 0.0), _focal.PublicOptimizer)
    np.testing.assert_allclose(fit_mlp().numpy(), expected.numpy(), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- ranges of parameters


@pytest.mark.parametrize(
    ("rule", "inside", "outside", "text"),
    [
        (Range(1, whole=True), [1, np.int64(7)], [0, 1.0, "1", None, np.inf], "an int in the range [1, inf)"),
        (Range(0, 1), [0, 0.5, np.float32(0.9)], [-0.1, 1, np.nan, "0"], "a float in the range [0.0, 1.0)"),
        (Range(0, 1, "(]"), [1e-9, 1], [0, 1.1], "a float in the range (0.0, 1.0]"),
        (Range(0, bounds="()"), [1e-9, 1e9], [0, np.inf], "a float in the range (0.0, inf)"),
        (Range(2, 9, "[]", whole=True), [2, 9], [1, 10], "an int in the range [2, 9]"),
    ],
    ids=str,
)
def test_ranges(rule: Range, inside: list[Any], outside: list[Any], text: str) -> None:
    assert all(map(rule.holds, inside)) and not any(map(rule.holds, outside))
    assert str(rule) == text


def test_rules_are_of_every_parameter() -> None:
    """Each parameter of the MLP and of LightGBM has rules, its default meets them, and the seed alone has none."""
    for kind, rules in ((MLP, MLP_RULES), (LightGBM, LIGHTGBM_RULES)):
        assert list(rules) == [name for name in inspect.signature(kind).parameters if name != "random_state"]
        check_parameters(kind(), rules)
        for name in rules:
            with pytest.raises(ValueError, match=f"^The '{name}' parameter of {kind.__name__} must be .*Got b'x' inst"):
                check_parameters(kind(**{name: b"x"}), rules)


def test_several_rules_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"must be 'balanced', an instance of 'dict' or None\. Got 'equal' instead"):
        check_parameters(MLP(class_weight="equal"), MLP_RULES)  # type: ignore[arg-type]
    check_parameters(MLP(class_weight={"anger": 2.0}, standardize=np.bool_(True)), MLP_RULES)  # type: ignore[arg-type]


def list_classifiers() -> list[BaseEstimator]:
    """Every classifier of scikit-learn that is not made from another one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classes = [kind for _, kind in all_estimators(type_filter="classifier")]
        required = [[p for p in inspect.signature(k).parameters.values() if p.default is p.empty] for k in classes]
        made = [kind() for kind, needs in zip(classes, required, strict=True) if not needs]
    # scikit-learn refuses this one's own default.
    return [estimator for estimator in made if type(estimator).__name__ != "SelfTrainingClassifier"]


@pytest.mark.parametrize("estimator", list_classifiers(), ids=lambda e: type(e).__name__)
def test_a_library_parameter_out_of_range_is_found_without_rows(estimator: BaseEstimator) -> None:
    """For each parameter of each classifier: what `fit` says of a value that is nonsense, before it sees rows.

    Held to scikit-learn's private check, where this version has it.
    """
    check_library_parameters(estimator)
    for name in estimator.get_params(deep=False):
        wrong = clone(estimator).set_params(**{name: b"nonsense"})
        expected = find_message(getattr(wrong, "_validate_params", lambda: None))
        found = find_message(lambda wrong=wrong: check_library_parameters(wrong))
        assert found == expected or not hasattr(wrong, "_validate_params")


def find_message(call: Any) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def test_what_is_checked_is_not_fitted() -> None:
    """Neither the estimator nor the global generator changes, and warnings wait for the real fit."""
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    estimator = SVC(probability=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_library_parameters(estimator)
    assert not hasattr(estimator, "n_features_in_")
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002
    with pytest.raises(ValueError, match="'C' parameter of LogisticRegression must be a float"):
        check_library_parameters(LogisticRegression(C=-1))
