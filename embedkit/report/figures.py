"""Pictures of a study, each as SVG (for the page) and PNG (for slides). Only this module imports matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkit import files
from embedkit.classes import CLASSES
from embedkit.report.document import KeyName, Result, StudyDocument, read_validation_ua
from embedkit.stats import IntervalDocument

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

COLOURS = {"anger": "#c2384a", "happiness": "#b98200", "neutral": "#6b7280", "sadness": "#2f6fb7"}
INK, ACCENT, FAINT = "#1c2530", "#1f5fa8", "#d5dce4"
KEYS: tuple[KeyName, ...] = ("part", "arm", "layer", "head")
MAX_PANELS = 6  # in one picture; the tables have the rest
STYLE: dict[RcKeyType, object] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#8a97a6",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#4a5868",
    "ytick.color": "#4a5868",
    "svg.hashsalt": "embedkit",  # the same figures give the same bytes
    "svg.fonttype": "path",
}


def draw_figures(doc: StudyDocument, folder: Path) -> dict[str, bytes]:
    """Write <folder>/<name>.svg and .png of every picture that the study has data for; returns each one's SVG."""
    import matplotlib

    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, maker in MAKERS.items():
            figure = maker(doc) if doc["results"] else None
            if figure is None:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            for kind in ("png", "svg"):
                picture = io.BytesIO()
                metadata = {"Date": None} if kind == "svg" else None
                figure.savefig(picture, format=kind, dpi=160, metadata=metadata)
                files.write_bytes(folder / f"{name}.{kind}", picture.getvalue())
            drawn[name] = picture.getvalue()
    return drawn


def _make_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _make_panels(count: int, size: float, *, share: bool = False) -> tuple[Figure, list[Axes]]:
    """Square panels, at most three in a row."""
    across = min(count, 3)
    down = -(-count // across)
    figure = _make_figure(size * across + 0.3, size * down + 0.2)
    grid = figure.subplots(down, across, squeeze=False, sharex=share, sharey=share).ravel()
    for unused in grid[count:]:
        unused.set_visible(False)
    return figure, list(grid[:count])


def _clean_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _label_result(doc: StudyDocument, result: Result) -> str:
    """Those of a result's names that differ between results."""
    keys = [key for key in KEYS if len({str(r.get(key)) for r in doc["results"]}) > 1]
    words = [f"layer {result['layer']}" if key == "layer" else str(result.get(key)) for key in keys]
    return ", ".join(words) or str(result["head"])


def _read_interval(interval: IntervalDocument) -> tuple[float, float, float]:
    """(estimate, low, high); without an interval all three are the estimate. NaN where the score is not defined."""
    middle = math.nan if interval["estimate"] is None else interval["estimate"]
    low, high = (middle if end is None else end for end in (interval["low"], interval["high"]))
    return middle, low, high


# ---------------------------------------------------------------- the pictures


def draw_scores(doc: StudyDocument) -> Figure | None:
    """UA of every result as a dot with its interval; the chance level as a line."""
    results = doc["results"][:60]
    figure = _make_figure(7.2, 0.75 + 0.26 * len(results))
    axes = figure.subplots()
    for at, result in enumerate(results):
        middle, low, high = _read_interval(result["ua"]["interval"])
        axes.plot([low, high], [at, at], color=ACCENT, linewidth=1.6, solid_capstyle="butt")
        axes.plot(middle, at, "o", color=ACCENT, markersize=5)
        axes.annotate(f"{middle:.3f}", (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set_yticks(range(len(results)), [_label_result(doc, r) for r in results])
    axes.set(ylim=(len(results) - 0.4, -0.6), xlabel="UA")
    present = sum(any(row) for row in results[0]["confusion"])
    axes.axvline(1 / present, color="#8a97a6", linestyle=":", linewidth=1)
    axes.annotate(
        "chance", (1 / present, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8
    )
    _clean_axes(axes)
    axes.grid(axis="y", visible=False)
    return figure


def draw_dose(doc: StudyDocument) -> Figure | None:
    """F1 of each class and UA against the share of the other corpus in training; one panel for each head."""
    mixes = {arm: mix for arm, mix in doc["arms"].items() if len(mix) < 2}
    corpora = {corpus for mix in mixes.values() for corpus in mix}
    if len(corpora) != 1 or len(mixes) < 3:
        return None
    shares = {arm: next(iter(mix.values()), 0.0) for arm, mix in mixes.items()}
    kinds = list(dict.fromkeys((r.get("part", ""), r["layer"], r["head"]) for r in doc["results"]))[:MAX_PANELS]
    figure, panels = _make_panels(len(kinds), 3.6, share=True)
    for axes, kind in zip(panels, kinds, strict=True):
        panel_results = [
            r for r in doc["results"] if (r.get("part", ""), r["layer"], r["head"]) == kind and r["arm"] in shares
        ]
        panel_results.sort(key=lambda r: shares[r["arm"]])
        _draw_dose_panel(
            axes, panel_results, [100 * shares[r["arm"]] for r in panel_results], ", ".join(str(k) for k in kind[2:])
        )
        axes.set_xlabel(f"{next(iter(corpora))} in training (%)")
    panels[0].set_ylabel("F1; UA")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _draw_dose_panel(axes: Axes, results: Sequence[Result], shares: Sequence[float], title: str) -> None:
    lines = {"UA": (INK, [r["ua"] for r in results])}
    lines |= {name: (COLOURS[name], [r["f1"][name] for r in results]) for name in CLASSES}
    for at, (name, (colour, metrics)) in enumerate(lines.items()):
        if any(m["pooled"] is None for m in metrics):
            continue
        middle, low, high = np.array([_read_interval(m["interval"]) for m in metrics]).T
        width = 2.4 if name == "UA" else 1.4
        shifted = np.array(shares) + (at - 2) * 0.8  # so that intervals stand side by side
        axes.vlines(shifted, low, high, color=colour, alpha=0.45, linewidth=width)
        axes.plot(shifted, middle, "o-", color=colour, markersize=3.5, linewidth=width, label=name)
    axes.set_title(title)
    _clean_axes(axes)


def draw_confusion(doc: StudyDocument) -> Figure | None:
    """The confusion matrix of the best layer and head (by validation UA) in each arm."""
    best = max(doc["results"], key=read_validation_ua)
    shown = [r for r in doc["results"] if (r["layer"], r["head"]) == (best["layer"], best["head"])][:MAX_PANELS]
    figure, panels = _make_panels(len(shown), 3.3)
    for axes, result in zip(panels, shown, strict=True):
        counts = np.array(result["confusion"])
        rows = counts.sum(1, keepdims=True)
        shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(shares):
            text = f"{share:.0%}\n{counts[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if share > 0.55 else INK)
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=30, ha="right")
        axes.set_yticks(range(len(CLASSES)), CLASSES)
        axes.set(xlabel="predicted", ylabel="truth", title=_make_title(doc, result))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _make_title(doc: StudyDocument, result: Result) -> str:
    arms = result["arm"] if len(doc["arms"]) > 1 else ""
    return ", ".join(word for word in (str(result.get("part", "")), arms, result["head"]) if word)


def draw_reliability(doc: StudyDocument) -> Figure | None:
    """Accuracy against confidence, as trained and with the temperature; a panel for each head (best arm and layer)."""
    best: dict[str, Result] = {}
    for result in sorted(doc["results"], key=read_validation_ua, reverse=True):
        best.setdefault(result["head"], result)
    shown = [best[head] for head in dict.fromkeys(r["head"] for r in doc["results"])][:MAX_PANELS]
    figure, panels = _make_panels(len(shown), 3.2, share=True)
    for axes, result in zip(panels, shown, strict=True):
        axes.plot([0, 1], [0, 1], color="#8a97a6", linewidth=0.8, linestyle=":")
        before, after = result["calibration"]["before"], result["calibration"]["after"]
        bins = before["reliability"]
        largest = max(b["count"] for b in bins)
        for b in bins:
            axes.bar(b["low"], 0.25 * b["count"] / largest, b["high"] - b["low"], align="edge", color=FAINT)
        for stage, line in ((after, "--"), (before, "-")):
            filled_bins = [b for b in stage["reliability"] if b["count"] >= 5]
            confidence, accuracy = [b["confidence"] for b in filled_bins], [b["accuracy"] for b in filled_bins]
            axes.plot(confidence, accuracy, line, marker="o", markersize=3, color=ACCENT, linewidth=1.4)
        title = f"{result['head']}: ECE {before['ece']['pooled']:.3f}, then {after['ece']['pooled']:.3f}"
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=title)
        _clean_axes(axes)
    panels[0].set_ylabel("accuracy")
    return figure


def draw_pareto(doc: StudyDocument) -> Figure | None:
    """UA against the encoder's bytes; the best head of each encoder."""
    sizes = doc.get("encoder_bytes", {})
    if len(sizes) < 2:
        return None
    best: dict[str, Result] = {}
    for result in sorted(doc["results"], key=read_validation_ua, reverse=True):
        best.setdefault(result["encoder"], result)
    points = sorted(((sizes[e], r) for e, r in best.items() if e in sizes), key=lambda point: point[0])
    figure = _make_figure(6.4, 4.0)
    axes = figure.subplots()
    for size, result in points:
        middle, low, high = _read_interval(result["ua"]["interval"])
        axes.plot([size / 1e6] * 2, [low, high], color=ACCENT, linewidth=1.2, alpha=0.6)
        axes.plot(size / 1e6, middle, "o", color=ACCENT, markersize=6)
        axes.annotate(f"  {result['encoder']} ({result['head']})", (size / 1e6, middle), fontsize=8, va="bottom")
    scores = [(size, ua) for size, result in points if (ua := result["ua"]["pooled"]) is not None]
    front = [(size, ua) for size, ua in scores if all(other < ua for smaller, other in scores if smaller < size)]
    axes.plot([size / 1e6 for size, _ in front], [ua for _, ua in front], color=INK, linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlabel="encoder's weights in float32 (million bytes)", ylabel="UA")
    _clean_axes(axes)
    return figure


MAKERS: dict[str, Callable[[StudyDocument], Figure | None]] = {
    "scores": draw_scores,
    "dose": draw_dose,
    "pareto": draw_pareto,
    "confusion": draw_confusion,
    "reliability": draw_reliability,
}
