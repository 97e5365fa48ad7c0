"""Every head keeps one contract: cards, scikit-learn's interface, files, ONNX, views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedkit import cards, heads
from embedkit.classes import CLASSES
from embedkit.errors import CardError, ModelError
from embedkit.heads.lightgbm import LightGBM
from embedkit.heads.logistic import Logistic
from embedkit.heads.mlp import MLP
from embedkit.heads.sklearn import Sklearn

CARDS = sorted((Path(__file__).parents[2] / "heads").glob("*.toml"))
QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"epochs": 3},
    "lightgbm": {"n_estimators": 12},
    "random-forest": {"n_estimators": 20},
}


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """240 rows of 24 features, four overlapping classes in unequal number; scales and offsets differ by column."""
    rng = np.random.default_rng(0)
    y = rng.choice(CLASSES, 240, p=[0.4, 0.3, 0.2, 0.1])
    centre = rng.standard_normal((4, 24))
    X = centre[np.searchsorted(CLASSES, y)] + 1.5 * rng.standard_normal((240, 24))
    X = (X + np.linspace(-20, 20, 24)) * np.geomspace(0.05, 2, 24)
    return X.astype(np.float16).astype(np.float32), y  # as a cache gives them


def read_quick_card(path: Path) -> cards.Head:
    """A shipped card, with fewer rounds."""
    overrides = {f"fixed.{key}": value for key, value in QUICK.get(path.stem, {}).items()}
    return cards.read(cards.Head, path, overrides)


@pytest.fixture(params=CARDS, ids=lambda path: path.stem)
def card(request: pytest.FixtureRequest) -> cards.Head:
    """Each card that is shipped, with fewer rounds."""
    return read_quick_card(request.param)


def run(model: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return tuple(session.run(["logits", "probabilities"], {"embedding": X}))  # type: ignore[return-value]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# ---------------------------------------------------------------- scikit-learn's own checks


ESTIMATORS = [
    MLP(lr=1e-2, batch=32, standardize=True, activation="gelu", hidden=16, dropout=0.1, epochs=15),
    Logistic(),
    LightGBM(n_estimators=20),
    Sklearn(),
    Sklearn(SVC()),
    Sklearn(LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
    Sklearn(RandomForestClassifier(n_estimators=8), standardize=False),
]


def build_other_kinds() -> list[Any]:
    """The first shipped card's head of each kind that ESTIMATORS lacks; a kind without a card fails below."""
    listed = {type(estimator).__module__.split(".")[2] for estimator in ESTIMATORS}
    card_by_kind = {card.kind: card for card in map(read_quick_card, reversed(CARDS))}
    return [heads.build(card_by_kind[kind]) for kind in heads.list_kinds() if kind in card_by_kind.keys() - listed]


@pytest.mark.slow
@parametrize_with_checks([*ESTIMATORS, *build_other_kinds()])
def test_estimator_checks(estimator: Any, check: Any) -> None:
    """Each kind passes every check that scikit-learn has for classifiers; none is expected to fail."""
    check(estimator)


# ---------------------------------------------------------------- cards


def test_every_kind_has_a_card_that_is_right() -> None:
    """The shipped cards pass `check`, and together they use every kind."""
    shipped = [cards.read(cards.Head, path) for path in CARDS]
    for card in shipped:
        heads.check_card(card)
    missing = sorted(set(heads.list_kinds()) - {card.kind for card in shipped})
    if missing:
        kind = missing[0]
        pytest.fail(f"kind '{kind}' has no card: write heads/{kind}.toml (see CONTRIBUTING.md)", pytrace=False)


def test_paper_card_is_the_contract() -> None:
    """heads/paper.toml says in full what the contract settles, and equals MLP's own defaults."""
    card = cards.read(cards.Head, next(path for path in CARDS if path.stem == "paper"))
    expected = {
        "hidden": 256, "activation": "none", "dropout": 0.0, "standardize": False, "gamma": 2.0, "smoothing": 0.1,
        "class_weight": "balanced", "lr": 5e-5, "weight_decay": 0.01, "warmup": 0.1, "epochs": 25, "batch": 16,
        "patience": 6,
    }  # fmt: skip
    assert card.fixed == expected
    assert MLP(random_state=3).get_params() == expected | {"random_state": 3, "layers": 1}
    assert heads.build(card, seed=3).get_params() == expected | {"random_state": 3, "layers": 1}  # type: ignore[attr-defined]


SVC_CARD = {"estimator": "sklearn.svm.SVC"}


@pytest.mark.parametrize(
    ("kind", "fixed", "message"),
    [
        ("mpl", {}, "heads/x.toml: unknown kind 'mpl'; did you mean 'mlp'?"),
        ("mlp", {"hiden": 8}, "heads/x.toml: unknown parameter 'fixed.hiden'; did you mean 'hidden'?"),
        ("mlp", {"random_state": 8}, "unknown parameter 'fixed.random_state'"),
        ("mlp", {"dropout": 1.5}, "'dropout' parameter of MLP must be a float in the range [0.0, 1.0). Got 1.5"),
        ("mlp", {"hidden": "wide"}, "'hidden' parameter of MLP must be an int in the range [1, inf). Got 'wide'"),
        ("mlp", {"activation": "gleu"}, "'activation' parameter of MLP must be"),
        ("logistic", {"c": 1}, "unknown parameter 'fixed.c'"),
        (
            "logistic",
            {"C": -1.0},
            "'C' parameter of LogisticRegression must be a float in the range (0.0, inf]. Got -1",
        ),
        ("lightgbm", {"num_leaf": 3}, "did you mean 'num_leaves'?"),
        ("lightgbm", {"num_leaves": 1}, "'num_leaves' parameter of LightGBM must be an int in the range [2, 131072]"),
        ("lightgbm", {"linear_tree": True}, "fixed.linear_tree is refused"),
        ("sklearn", {}, 'expected a dotted name such as "sklearn.svm.SVC"'),
        ("sklearn", {"estimator": "os.system"}, "expected a dotted name"),
        ("sklearn", {"estimator": "sklearn.os.System"}, "scikit-learn has no sklearn.os"),
        ("sklearn", {"estimator": "sklearn.svm.SVCC"}, "no classifier of sklearn.svm; did you mean 'SVC'?"),
        ("sklearn", {"estimator": "sklearn.svm.SVR"}, "no classifier of sklearn.svm"),
        ("sklearn", {**SVC_CARD, "kernal": "rbf"}, "did you mean 'kernel'?"),
        ("sklearn", {**SVC_CARD, "kernel": "rbg"}, "'kernel' parameter of SVC must be"),
        ("sklearn", {**SVC_CARD, "probability": True}, "fixed.probability: take it out"),
        ("sklearn", {**SVC_CARD, "standardize": 1}, "fixed.standardize = 1: expected true or false"),
    ],
)
def test_bad_parameters(kind: str, fixed: dict[str, Any], message: str) -> None:
    """A wrong kind, name or value is one line that names the card, what was found and what is right."""
    with pytest.raises(CardError) as caught:
        heads.build(cards.Head(name="x", kind=kind, fixed=fixed))
    assert message in str(caught.value)
    assert str(caught.value).startswith("heads/x.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"gama": {"type": "float", "low": 0, "high": 4}}}, "'search.gama'; did you mean 'gamma'?"),
        ({"search": {"gamma": {"type": "float", "low": -1, "high": 4}}}, "search.gamma: The 'gamma' parameter"),
        ({"search": {"batch": {"type": "choice", "of": [256, 0]}}}, "search.batch: The 'batch' parameter"),
        ({"views": "all"}, "views = 'all': kind mlp knows clean and draw"),
        ({"kind": "logistic", "views": "draw"}, "views = 'draw': kind logistic knows clean and all"),
    ],
)
def test_bad_search_and_views(change: dict[str, Any], message: str) -> None:
    """`check` finds a search key that is no parameter, a bound out of range, and views that a kind cannot use."""
    with pytest.raises(CardError, match=r"^heads/x\.toml: ") as caught:
        heads.check_card(cards.build(cards.Head, {"name": "x", "kind": "mlp", **change}))
    assert message in str(caught.value)


def test_none_in_a_card() -> None:
    """TOML has no null: "none" is None, and the MLP's activation "none" stays what it is."""
    built = heads.build(cards.Head(kind="mlp", fixed={"class_weight": "none", "activation": "none"}))
    assert built.get_params()["class_weight"] is None  # type: ignore[attr-defined]
    built.fit(np.eye(8), np.arange(8) % 2)
    forest = {"estimator": "sklearn.ensemble.RandomForestClassifier", "class_weight": "none"}
    assert heads.build(cards.Head(kind="sklearn", fixed=forest)).estimator.class_weight is None  # type: ignore[attr-defined]


# ---------------------------------------------------------------- fit and predict


def test_names_and_order(card: cards.Head, data: tuple[np.ndarray, np.ndarray]) -> None:
    """The four names come out in CLASSES' order, probabilities sum to 1, and the same seed gives the same bits."""
    X, y = data
    head = heads.build(card, seed=1).fit(X[:180], y[:180], validation=(X[180:], y[180:]))
    assert tuple(head.classes_) == CLASSES
    p = head.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert (head.predict(X) == np.array(CLASSES)[p.argmax(1)]).all()
    again = heads.build(card, seed=1).fit(X[:180], y[:180], validation=(X[180:], y[180:]))
    np.testing.assert_array_equal(again.predict_proba(X), p)


def test_validation_is_not_trained_on(card: cards.Head, data: tuple[np.ndarray, np.ndarray]) -> None:
    """What is held out cannot change a head but by the number of rounds: with one round, not at all."""
    X, y = data
    parameter = heads.find_rounds_parameter(card)
    fixed = {**card.fixed, parameter: 1} if parameter else card.fixed
    one = heads.build(card.model_copy(update={"fixed": fixed})).fit(X[:180], y[:180])
    for other in ((X[180:], y[180:]), (100 * X[180:210], y[210:])):
        held = heads.build(card.model_copy(update={"fixed": fixed})).fit(X[:180], y[:180], validation=other)
        np.testing.assert_array_equal(held.predict_proba(X), one.predict_proba(X))


def test_global_state_is_left_alone(card: cards.Head, data: tuple[np.ndarray, np.ndarray]) -> None:
    """Training changes neither numpy's nor torch's global generator, nor torch's number of threads."""
    import torch

    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    heads.build(card).fit(*data)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == torch.get_num_threads()


def test_views_of_another_shape(card: cards.Head, data: tuple[np.ndarray, np.ndarray]) -> None:
    """Views that are not [row, K, dim] of the same rows are refused before anything trains."""
    with pytest.raises(ValueError, match=r"views have shape \(239, 2, 24\), expected \(240, K, 24\)"):
        heads.build(card).fit(*data, views=np.zeros((239, 2, 24), np.float32))


def test_one_class(card: cards.Head, data: tuple[np.ndarray, np.ndarray]) -> None:
    """Rows of one class end in one line."""
    with pytest.raises(ValueError, match="only one class: 'anger'"):
        heads.build(card).fit(data[0], np.full(len(data[0]), "anger"))


# ---------------------------------------------------------------- files and ONNX


@pytest.fixture(scope="module")
def fitted(data: tuple[np.ndarray, np.ndarray]) -> dict[str, tuple[str, Any]]:
    """Each shipped card's head, fitted once (quick settings), and an MLP of each activation."""
    X, y = data
    result: dict[str, tuple[str, Any]] = {}
    for path in CARDS:
        card = read_quick_card(path)
        result[path.stem] = card.kind, heads.build(card).fit(X[:200], y[:200], validation=(X[200:], y[200:]))
    for activation in ("none", "relu", "gelu"):
        head = MLP(activation=activation, standardize=True, epochs=2, lr=1e-2, random_state=0)
        result[f"mlp-{activation}"] = "mlp", head.fit(X, y)
    return result


HEADS = [*(path.stem for path in CARDS), "mlp-none", "mlp-relu", "mlp-gelu"]


@pytest.mark.parametrize("name", HEADS)
def test_round_trip(name: str, fitted: dict[str, tuple[str, Any]], data: Any, tmp_path: Path) -> None:
    """A head that is saved and loaded gives the same probabilities (bit by bit; through ONNX to 2e-6), no pickle."""
    kind, head = fitted[name]
    heads.save(kind, head, tmp_path)
    loaded = heads.load(kind, tmp_path)
    X = data[0]
    np.testing.assert_allclose(
        loaded.predict_proba(X), head.predict_proba(X), rtol=0, atol=2e-6 if kind == "sklearn" else 0
    )
    assert (loaded.predict(X) == head.predict(X)).mean() >= 0.99
    assert loaded.classes_.tolist() == head.classes_.tolist()
    assert loaded.n_features_in_ == head.n_features_in_
    assert not [
        path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors", ".npz", ".txt", ".onnx")
    ]
    for attribute in ("best_epoch_", "best_iteration_"):
        assert getattr(loaded, attribute, None) == getattr(head, attribute, None)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", HEADS)
def test_onnx(name: str, temperature: float, fitted: dict[str, tuple[str, Any]], data: Any, tmp_path: Path) -> None:
    """In onnxruntime the graph equals predict_proba to 2e-6 (as does the one of a loaded head), at opset 21 and IR 10.

    The logits' softmax is the probabilities; a temperature T gives softmax(log p / T).
    """
    kind, head = fitted[name]
    X = data[0]
    heads.save(kind, head, tmp_path)
    p = head.predict_proba(X).astype(np.float64)
    expected = softmax(np.log(np.maximum(p, 1e-300)) / temperature)
    for source in (head, heads.load(kind, tmp_path)):
        model = heads.to_onnx(kind, source, temperature)
        assert [(o.domain, o.version) for o in model.opset_import if not o.domain] == [("", 21)]
        assert model.ir_version == 10
        read = {word for node in model.graph.node for word in node.input}
        assert {tensor.name for tensor in model.graph.initializer} <= read  # nothing is carried along unused
        logits, probabilities = run(model, X)
        assert np.isfinite(logits).all()
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=2e-6)
        np.testing.assert_allclose(softmax(logits), probabilities, rtol=0, atol=1e-6)


def test_linear_heads_are_one_gemm(fitted: dict[str, tuple[str, Any]]) -> None:
    """Scaler and linear layers fold: one Gemm and a softmax for the linear heads, two Gemms for the MLP."""
    for name, nodes in {
        "logistic": ["Gemm", "Softmax"],
        "paper": ["Gemm", "Softmax"],
        "mlp-none": ["Gemm", "Softmax"],
        "mlp-gelu": ["Gemm", "Gelu", "Gemm", "Softmax"],
    }.items():
        assert [node.op_type for node in heads.to_onnx(*fitted[name]).graph.node] == nodes, name


@pytest.mark.parametrize("kind", heads.list_kinds())
def test_two_classes(kind: str, data: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Two classes, and labels that are no emotions, are served by files and graphs alike."""
    X, y = data[0], np.where(np.isin(data[1], ["anger", "sadness"]), "yes", "no")
    fixed = SVC_CARD if kind == "sklearn" else {}
    head = heads.build(cards.Head(kind=kind, fixed=fixed)).fit(X, y)
    assert head.classes_.tolist() == ["no", "yes"]
    heads.save(kind, head, tmp_path)
    p = head.predict_proba(X)
    np.testing.assert_allclose(run(heads.to_onnx(kind, head), X)[1], p, rtol=0, atol=2e-6)
    np.testing.assert_allclose(heads.load(kind, tmp_path).predict_proba(X), p, rtol=0, atol=2e-6)


def test_load_refuses(fitted: dict[str, tuple[str, Any]], tmp_path: Path) -> None:
    """An empty folder, another kind, a later format and a cut file end in one line each."""
    with pytest.raises(ModelError, match="no whole head of kind mlp"):
        heads.load("mlp", tmp_path)
    for name in ("mlp", "logistic", "lightgbm", "lda"):
        kind, head = fitted[name]
        folder = tmp_path / name
        heads.save(kind, head, folder)
        other = "logistic" if kind == "mlp" else "mlp"
        with pytest.raises(ModelError, match="expected \\(1, "):
            heads.load(other, folder)
        file = next(folder.glob("head.*"))
        file.write_bytes(file.read_bytes()[:40])
        with pytest.raises(ModelError, match="no whole head"):
            heads.load(kind, folder)
    meta = json.loads((tmp_path / "mlp" / "meta.json").read_text())
    (tmp_path / "mlp" / "meta.json").write_text(json.dumps(meta | {"format": 2}))
    with pytest.raises(ModelError, match="format"):
        heads.load("mlp", tmp_path / "mlp")


def test_clone(card: cards.Head) -> None:
    """A head can be cloned as scikit-learn does, so it fits into its tools."""
    head = heads.build(card, seed=5)
    copy = clone(head)
    assert str(copy.get_params()) == str(head.get_params())  # type: ignore[attr-defined]
