"""How the cost of a study grows, on made-up features: time and memory from cache to report."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkit.bench._material import Size, make_cache
from embedkit.bench._measure import run_in_worker
from embedkit.bench._page import Row, RowDocument, format_number
from embedkit.threads import one_thread

if TYPE_CHECKING:
    from embedkit.study import StudyFlags

TITLE = "Growth"
HOW = (
    "A study of logistic regression from cache to report, 64 features, one process of one thread. Slope: of CPU time"
    " against the axis on a log-log scale, over its upper half; 1 is linear."
)
DIM = 64
BASE = {"rows": 3_000, "folds": 5, "trials": 0, "views": 1}  # of a study, but for the axis that is measured
LARGE_ROWS = 100_000, 1_000_000  # with --full
HEAD_CARD = (
    'kind = "logistic"\nviews = "all"\n[fixed]\nC = 0.05\n[search]\nC = { type = "float", low = 1e-3, high = 1.0 }\n'
)


def rows(size: Size) -> Iterator[Row]:
    """CPU time and memory of a study along each axis, and the slope of each."""
    axes = dict(size.axes)
    if size.full and "rows" in axes:
        axes["rows"] = (*axes["rows"], *LARGE_ROWS)
    for axis, values in axes.items():
        points = run_in_worker(measure_axis, axis, values)
        for value, (seconds, megabytes) in zip(values, points, strict=True):
            yield Row(f"{axis}: {value:,}", seconds, "CPU-s", note=f"{format_number(megabytes)} MB at most")
        yield Row(f"{axis}: slope", fit_slope(values, [seconds for seconds, _ in points]), floor=1.1, most=True)


def fit_slope(values: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of seconds against values, by least squares on logarithms, over the upper half of the points (at least
    two).

    >>> round(fit_slope([1, 10, 100, 1000], [5, 5, 10, 100]), 2)
    1.0
    """
    count = max(2, len(values) // 2)
    x, y = np.log(values[-count:]), np.log(seconds[-count:])
    return float(np.polyfit(x, y, 1)[0])


def measure_axis(axis: str, values: Sequence[int]) -> list[tuple[float, float]]:
    """CPU seconds of a study at each value (ascending), and this process's peak memory (MB) up to then."""
    points = []
    time_study(**{**BASE, "rows": 120, axis: min(values) if axis != "rows" else 120})  # libraries are loaded here
    for value in values:
        seconds = time_study(**{**BASE, axis: value})
        points.append((seconds, read_peak_memory()))
    return points


def read_peak_memory() -> float:
    """The peak memory (MB) of this process. Linux's ru_maxrss would include its parent's."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def time_study(rows: int, folds: int, trials: int, views: int) -> float:
    """CPU seconds of a study from cache to report. trials: of a search; 0: none."""
    from embedkit import study
    from embedkit.workspace import init_workspace

    with tempfile.TemporaryDirectory() as folder, one_thread():
        workspace = init_workspace(Path(folder) / "home")
        (workspace.root / "heads" / "grown.toml").write_text(HEAD_CARD, encoding="utf-8")
        make_cache(workspace, "iemocap", [rows // folds + (i < rows % folds) for i in range(folds)], DIM, views)
        flags: StudyFlags = {"heads": ["grown"], "trials": trials}
        begin = time.process_time()
        study.run_single_study(workspace, flags=flags, jobs=1)
        return time.process_time() - begin


def draw(rows: Sequence[RowDocument], folder: Path) -> None:
    """Draw growth.svg: a panel for each axis, with the seconds and the line of slope 1 through the last point."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    axes: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        axis, _, value = row["what"].partition(": ")
        if value != "slope":
            axes.setdefault(axis, []).append((float(value.replace(",", "")), float(row["value"])))
    with mpl.rc_context({"svg.hashsalt": "embedkit", "font.size": 9}):
        figure = Figure((3 * len(axes), 3), layout="constrained")
        for panel, (axis, points) in zip(np.atleast_1d(figure.subplots(1, len(axes))), axes.items(), strict=True):
            x, y = np.array(points).T
            panel.loglog(x, y, "o-", label="measured")
            panel.loglog(x, y[-1] * x / x[-1], ":", color="0.5", label="linear")
            panel.set(xlabel=axis, ylabel="CPU-s of a study")
            panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
        figure.savefig(folder / "growth.svg", metadata={"Date": None})
