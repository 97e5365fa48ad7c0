"""What a file costs: time and peak memory of one clip, under the settings that the runtime uses."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from embedkit.audio import RATE, Wave
from embedkit.errors import EmbedkitError
from embedkit.runtime.model import make_session_options

SECONDS = 8.0  # of sound, as long as the paper cuts
THREADS = (1, 2)
TURNS = 7

# Run by a fresh interpreter that has loaded nothing else. VmHWM, where there is one, is of this program alone:
# ru_maxrss includes the process that started it.
_PEAK_MEMORY_SCRIPT = """
import re, resource, sys
from pathlib import Path
import numpy as np
from embedkit.runtime.model import load
session, _ = load(Path(sys.argv[1]), threads=1)
samples = int(sys.argv[2])
signal = (np.random.default_rng(0).normal(size=(1, samples)) * 0.1).astype(np.float32)
session.run(None, {"signal": signal, "lengths": np.array([samples])})
status = Path("/proc/self/status")
if status.exists():
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def measure_latency(
    models: Mapping[str, bytes],
    others: Mapping[str, Callable[[Wave], object]] | None = None,
    *,
    seconds: float = SECONDS,
    threads: Sequence[int] = THREADS,
    turns: int = TURNS,
) -> dict[str, dict[str, float]]:
    """{threads: {name: median milliseconds}} that each model takes for one clip of noise (seconds long).

    models: files' bytes, by name. others: functions of the clip that use one thread, timed with the models of one
    thread. All take turns, so other load on the machine affects all alike: compare within one number of threads only.
    The first turn, which warms up, is not counted.
    """
    wave = make_noise(seconds)
    medians = {}
    for count in threads:
        runs = {name: _open_session(model, count) for name, model in models.items()}
        runs |= (others or {}) if count == 1 else {}
        milliseconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(turns + 1):
            for name, run in runs.items():
                begin = time.perf_counter()
                run(wave)
                milliseconds[name].append((time.perf_counter() - begin) * 1e3)
        medians[str(count)] = {name: round(median(each[1:]), 1) for name, each in milliseconds.items()}
    return medians


def _open_session(model: bytes, threads: int) -> Callable[[Wave], object]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, make_session_options(threads), providers=["CPUExecutionProvider"])
    return lambda wave: session.run(None, {"signal": wave[None], "lengths": np.array([len(wave)])})


def make_noise(seconds: float) -> Wave:
    """A clip of Gaussian noise, float32 [samples], 16 kHz. Arithmetic on zeros could be faster, or skipped."""
    return (np.random.default_rng(0).normal(size=round(seconds * RATE)) * 0.1).astype(np.float32)


def measure_peak_memory(model: bytes, seconds: float = SECONDS) -> float:
    """The most memory (million bytes) that a fresh interpreter takes to load a file and classify one clip of noise.

    It imports `embedkit.runtime` and what that needs, nothing else. Raises EmbedkitError where the interpreter fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        command = [sys.executable, "-c", _PEAK_MEMORY_SCRIPT, str(path), str(round(seconds * RATE))]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        message = (completed.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise EmbedkitError(f"the file does not run in a fresh interpreter ({message}); nothing is written")
    return round(int(completed.stdout) / 1e6, 1)
