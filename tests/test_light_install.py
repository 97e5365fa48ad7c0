"""`pip install embedkit` in an environment of its own predicts, evaluates and serves; the rest asks for its extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from runtime_fixtures import build

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "pandas", "pydantic", "matplotlib", "h5py", "sklearn", "pyarrow", "onnx"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the light part alone, at our pins."""
    folder = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    command += ["--retries", "1", "--no-compile", "-c", ROOT / "constraints.txt", ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip install embedkit: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return python


@pytest.fixture(scope="module")
def space(light: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an exported file and a manifest of four loud and quiet clips."""
    root = tmp_path_factory.mktemp("space")
    subprocess.run([light, "-m", "embedkit", "init", root], check=True, capture_output=True)
    build(root / "model.onnx")
    rows = ["file,speaker,label"]
    for i, (label, level) in enumerate([("anger", 0.5), ("sadness", 0.01), ("anger", 0.4), ("sadness", 0.02)]):
        wave = np.random.default_rng(i).normal(0, level, 32_000)
        soundfile.write(root / f"{i}.wav", wave.clip(-1, 1), 16_000)
        rows.append(f"{i}.wav,speaker {i % 2},{label}")
    (root / "clips.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def run(light: Path, space: Path) -> Run:
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [light, "-m", "embedkit", *words]
        return subprocess.run(command, cwd=space, env=alone, capture_output=True, text=True, check=False)

    return call


@pytest.mark.slow
def test_the_light_part_is_light(light: Path) -> None:
    """None of what trains comes along; licence, type marker and cards do."""
    (packages,) = light.parents[1].glob("lib/python*/site-packages")
    assert not HEAVY & {path.name for path in packages.iterdir()}
    assert (packages / "embedkit" / "py.typed").is_file()
    assert list(packages.glob("embedkit-*.dist-info/licenses/LICENSE"))
    assert (packages / "embedkit" / "_cards" / "studies" / "loso.toml").is_file()


@pytest.mark.slow
def test_what_works(run: Run) -> None:
    """predict, evaluate (clip by clip, and long recordings with intervals), corpora: exit 0, one JSON document."""
    predicted = run("predict", "model.onnx", "0.wav", "--no-vad", "--json")
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)["files"][0]["label"] == "anger"
    evaluated = run("evaluate", "model.onnx", "--corpus", "mine", "--root", "clips.csv", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["wa"] == 1
    whole = ("--corpus", "mine", "--root", "clips.csv", "--long", "--gap", "0.2", "0.3", "--clips", "2")
    composed = run("evaluate", "model.onnx", *whole, "--json")
    assert composed.returncode == 0, composed.stderr
    assert json.loads(composed.stdout)["ways"]["clips"]["wa"]["low"] is not None
    counted = run("corpora", "mine", "--root", "clips.csv", "--json")
    assert counted.returncode == 0, counted.stderr
    assert json.loads(counted.stdout)["utterances"] == 4


@pytest.mark.slow
def test_intervals_need_no_more(light: Path) -> None:
    """The intervals by speaker that an evaluation can give are part of the light install."""
    code = (
        "import numpy as np\nfrom embedkit import stats\n"
        "tables = np.tile(np.diag([3., 2., 2., 2.]) + 1, (6, 1, 1)) + np.arange(6)[:, None, None]\n"
        "print(stats.compute_interval(tables).low)"
    )
    done = subprocess.run([light, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1


@pytest.mark.slow
def test_the_page_is_served(light: Path, space: Path) -> None:
    """`serve` answers to this machine; the page's own files are enough for that."""
    site = space / "site"
    site.mkdir()
    (site / "index.html").write_text("<!doctype html><title>here</title>")
    (site / "model.json").write_text('{"model": "model.onnx"}')
    (site / "model.onnx").write_bytes((space / "model.onnx").read_bytes())
    code = (
        "from pathlib import Path\nfrom threading import Thread\nfrom embedkit import web\n"
        f"server = web.make_server(Path({str(site)!r}), 0)\n"
        "Thread(target=server.serve_forever, daemon=True).start()\n"
        "print(server.server_address[1], flush=True)\ninput()"
    )
    with subprocess.Popen([light, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        port = int(process.stdout.readline())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html") as answer:
            assert b"here" in answer.read()
        process.stdin.write("\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("extract", "--corpus", "ravdess"), "train"),
        (("study", "--corpus", "ravdess"), "train"),
        (("stitch-export",), "train"),
        (("cache", "ls"), "train"),
        (("bench", "--only", "heads"), "train"),
        (("evaluate", "model.onnx", "--corpus", "mine", "--root", "clips.csv", "--long", "--held-out"), "train"),
        (("predict", "model.onnx", "0.wav", "--plot", "a.png"), "plot"),
    ],
)
def test_what_is_missing_is_named(run: Run, words: tuple[str, ...], extra: str) -> None:
    """Exit 2 and one line with the command that installs it."""
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1 and f"pip install 'embedkit[{extra}]'" in done.stderr


@pytest.mark.slow
def test_the_library_says_the_same(light: Path) -> None:
    code = "import embedkit\ntry: embedkit.load\nexcept embedkit.errors.UserError as error: print(error)"
    done = subprocess.run(
        [light, "-c", code.replace("import embedkit\n", "import embedkit, embedkit.errors\n")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'embedkit[train]'" in done.stdout, done.stderr
