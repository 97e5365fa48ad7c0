"""What an evaluation found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedkit.classes import CLASSES


def format_evaluation(r: Mapping[str, Any]) -> str:
    """`evaluate --long` as a table."""
    c = r["composition"]
    lines = [
        f"{r['corpus']}: {r['recordings']} recordings of {r['seconds']:.0f} s in the mean, {r['speakers']} speakers;"
        f" heads: {r['heads']}",
        f"{c['clips']} clips of one speaker and class, pauses of {c['gap'][0]:g} to {c['gap'][1]:g} s:"
        f" half silence, half noise at {c['noise']:g} dB; seed {c['seed']}",
        "",
        f"{'':9}{'WA':<24}{'UA':<24}{'called neutral':<24}{'bias':<24}no answer",
    ]
    for way, s in r["ways"].items():
        figures = (s["wa"], s["ua"], s["neutral"]["said"], s["neutral"]["bias"])
        lines.append(f"{way:9}" + "".join(f"{_format_interval(f):<24}" for f in figures) + str(s["no_answer"]))
    lines += ["", f"{'':9}" + "".join(f"{c:<24}" for c in CLASSES) + "recall above precision"]
    for way, s in r["ways"].items():
        lines += [
            f"{way if kind == 'recall' else '':9}" + "".join(f"{_format_interval(s[kind][c]):<24}" for c in CLASSES)
            for kind in ("recall", "precision")
        ]
    neutral = next(iter(r["ways"].values()))["neutral"]["truth"]
    lines += ["", f"neutral in truth: {neutral:.3f}; intervals are 95 %, by speaker; p by permutation, Holm's"]
    lines += [
        f"  {x['score']}: vad - {x['against']} = {x['difference']:+.3f}: {x['verdict']}" for x in r["comparisons"]
    ]
    lines += [f"  skipped {s['id']}: {s['reason']}" for s in r["skipped"]]
    return "\n".join([*lines, *(f"note: {note}" for note in r["notes"])])


def _format_interval(f: Mapping[str, Any]) -> str:
    if f["estimate"] is None:
        return "-"
    if f["low"] is None:
        return f"{f['estimate']:.3f}"
    return f"{f['estimate']:.3f} ({f['low']:.3f}, {f['high']:.3f})"
