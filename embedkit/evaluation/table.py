"""The evaluation of long recordings as text."""

from __future__ import annotations

from embedkit.classes import CLASSES
from embedkit.evaluation.document import Estimate, LongEvaluation


def format_evaluation(r: LongEvaluation) -> str:
    """What `evaluate --long` prints: the scores of each way, their comparisons, and what was left out."""
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
            f"{shown:9}" + "".join(f"{_format_interval(by_class[name]):<24}" for name in CLASSES)
            for shown, by_class in ((way, s["recall"]), ("", s["precision"]))
        ]
    neutral = next(iter(r["ways"].values()))["neutral"]["truth"]
    lines += ["", f"neutral in truth: {neutral:.3f}; intervals are 95 %, by speaker; p by permutation, Holm's"]
    lines += [
        f"  {x['score']}: vad - {x['against']} = {x['difference']:+.3f}: {x['verdict']}" for x in r["comparisons"]
    ]
    lines += [f"  skipped {s['id']}: {s['reason']}" for s in r["skipped"]]
    return "\n".join([*lines, *(f"note: {note}" for note in r["notes"])])


def _format_interval(f: Estimate) -> str:
    """ "0.712 (0.650, 0.771)", without the interval where there is none, "-" where there is no figure."""
    if f["estimate"] is None:
        return "-"
    if f["low"] is None:
        return f"{f['estimate']:.3f}"
    return f"{f['estimate']:.3f} ({f['low']:.3f}, {f['high']:.3f})"
