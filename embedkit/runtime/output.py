"""Predictions as a CSV table, and as a picture of the probabilities over time.

The picture needs matplotlib, which the runtime itself does without: it is imported when a picture is drawn.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkit.classes import CLASSES
from embedkit.errors import UserError
from embedkit.extras import explain_missing_package
from embedkit.files import replacing
from embedkit.runtime._results import AnyPrediction, Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

COLUMNS = ("file", "start", "end", "label", *CLASSES, "error")
COLOURS = {"anger": "#c2384a", "happiness": "#b98200", "neutral": "#6b7280", "sadness": "#2f6fb7"}
PANELS = 12  # recordings in one picture


def check_writable(table: Path | None, picture: Path | None, recordings: int) -> None:
    """Raise UserError where a table or a picture cannot be written, before hours of sound are classified."""
    for path in (table, picture):
        if path and not path.absolute().parent.is_dir():
            raise UserError(f"{path}: no such folder {path.parent}; make it first")
    if not picture:
        return
    if recordings > PANELS:
        raise UserError(
            f"{recordings} recordings, a picture holds at most {PANELS}; draw fewer at a time, or use --csv"
        )
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise explain_missing_package(error) from None
    known = FigureCanvasBase.get_supported_filetypes()
    if picture.suffix.lower().removeprefix(".") not in known:
        raise UserError(f"{picture}: no picture format of matplotlib; name it .png, .svg or .pdf")


def write_csv(files: Sequence[AnyPrediction], path: Path) -> None:
    """Write one row a window: file, start and end (s), the likeliest class, each class's probability.

    A recording without speech is one row without a label; one that could not be used has only its error.
    """
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for prediction in files:
            table.writerows(_tabulate_windows(prediction))


def _tabulate_windows(prediction: AnyPrediction) -> list[dict[str, object]]:
    if "error" in prediction:
        return [{"file": prediction["file"], "error": prediction["error"]}]
    return [
        {
            "file": prediction["file"],
            "start": window["start"],
            "end": window["end"],
            "label": _find_likeliest(window["probabilities"]),
            **window["probabilities"],
        }
        for window in prediction["windows"]
    ] or [{"file": prediction["file"]}]


def _find_likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


def draw_picture(files: Sequence[AnyPrediction], path: Path) -> None:
    """Write the picture of `build_figure`, in the format that the name's ending says."""
    with replacing(path) as draft:
        build_figure(files).savefig(draft, format=path.suffix.lower().removeprefix("."), dpi=150)


def build_figure(files: Sequence[AnyPrediction]) -> Figure:
    """One row a class, its probability 0..1 over time, in full colour where it is the likeliest."""
    from matplotlib.figure import Figure

    heights = [2.7 if prediction.get("windows") else 0.4 for prediction in files]  # inches
    page = Figure(figsize=(9, sum(heights)), layout="constrained")
    parts = page.subfigures(len(files), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, prediction in zip(parts, files, strict=True):
        result = prediction["error"] if "error" in prediction else prediction["label"] or "no speech"
        title = f"{Path(prediction['file']).name}: {result}"
        part.suptitle(title, x=0.01, ha="left", fontsize=11, parse_math=False)
        if "error" not in prediction and prediction["probabilities"]:
            _draw_recording(part, prediction["windows"], prediction["probabilities"])
    return page


def _draw_recording(part: SubFigure, windows: Sequence[Window], mean: Mapping[str, float]) -> None:
    """Draw the rows of one recording; mean: of its windows, written beside each row."""
    start, end = (np.array([w[key] for w in windows]) for key in ("start", "end"))
    time = np.stack([start, start, end, end], axis=1).ravel()
    likeliest = [_find_likeliest(w["probabilities"]) for w in windows]
    rows = part.subplots(len(CLASSES), 1, sharex=True, sharey=True)
    for row, name in zip(rows, CLASSES, strict=True):
        p = np.array([w["probabilities"][name] for w in windows])
        for shown, alpha in ((p, 0.35), (np.where([each == name for each in likeliest], p, 0), 1.0)):
            outline = np.stack([0 * shown, shown, shown, 0 * shown], axis=1).ravel()
            row.fill_between(time, outline, color=COLOURS[name], alpha=alpha, linewidth=0)
        row.set_ylabel(name, rotation=0, ha="right", va="center", color=COLOURS[name])
        row.annotate(
            f"{mean[name]:.2f}",
            (1.01, 0.5),
            xycoords="axes fraction",
            va="center",
            color=COLOURS[name],
        )
        row.set(ylim=(0, 1), yticks=[0, 1], yticklabels=[])
        row.spines[["top", "right", "left"]].set_visible(False)
        row.tick_params(left=False, bottom=row is rows[-1])
        row.grid(axis="y", color="0.9", linewidth=0.8)
        row.set_axisbelow(True)
    rows[-1].set_xlim(0, end[-1])
    rows[-1].xaxis.set_major_formatter(_format_clock)


def _format_clock(seconds: float, _: object = None) -> str:
    """Seconds as people write them.

    >>> _format_clock(75), _format_clock(36_000)
    ('1:15', '10:00:00')
    """
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}" if minutes >= 60 else f"{minutes}:{left:02}"
