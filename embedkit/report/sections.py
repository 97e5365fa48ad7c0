"""What a report says, section by section: `short` for a terminal, `whole` for a page.

Each section takes the document and gives its blocks; one that has nothing to say gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embedkit.classes import CLASSES
from embedkit.report.blocks import Block, Bullets, Heading, Picture, Table, Text

Doc = Mapping[str, Any]
SCORES = {"wa": "WA", "ua": "UA", "macro_f1": "macro F1"}

MAX_COMPARISONS = 12  # comparisons on a terminal; a page has them all

LEGEND = (
    "Mean ± standard deviation (ddof 1) over the folds' test parts; in brackets the value over all test predictions"
    " taken together with its 95 % interval by speaker: how it would vary over other speakers, for these heads."
    " WA is accuracy, UA the mean of the classes' recalls. Validation UA is what a search or an early stop has seen; it"
    " is no result."
)
CAPTIONS = {
    "scores": "UA over all test predictions, with 95 % intervals by speaker.",
    "dose": "F1 of each class, and UA, against the share of the other corpus that joins training;"
    " upright lines are 95 % intervals by speaker.",
    "confusion": "What was said of what: shares of each row's utterances, with their counts, over all folds and seeds.",
    "reliability": "Accuracy against confidence. On the diagonal, of what is said with 80 % confidence 80 % is right."
    " Solid: as trained; dashed: with the temperature that validation gives; bars: how many predictions.",
    "pareto": "UA with its 95 % interval by speaker against the bytes of the encoder's weights in float32; on the line"
    " lie those that no smaller one reaches.",
}


def build_summary(doc: Doc) -> list[Block]:
    """What it is, the scores, F1 by class, comparisons, the paper's figures, and what to know."""
    if not doc["results"]:
        return [
            *_describe_study(doc),
            *_tabulate_rows(doc)[1:],
            *_tabulate_class_weights(doc)[1:],
            *_tabulate_paper(doc)[1:],
            *_list_notes(doc)[1:],
        ]
    legend = "mean ± standard deviation over folds (all test predictions together); intervals are 95 %, by speaker"
    parts: list[Block] = [
        *_describe_study(doc),
        Table(_build_score_rows(doc, _format_short)),
        Table(_build_class_rows(doc, "f1", _format_short)),
    ]
    return [
        *parts,
        Text(legend),
        *_tabulate_comparisons(doc, MAX_COMPARISONS)[1:],
        *_tabulate_paper(doc)[1:],
        *_tabulate_search(doc)[1:],
        *_list_notes(doc)[1:],
    ]


def build_report(doc: Doc, pictures: Sequence[str]) -> list[Block]:
    """Everything."""
    sections: tuple[tuple[Callable[[Doc], list[Block]], set[str]], ...] = (  # each with the pictures that follow it
        (_tabulate_scores, {"scores", "dose", "pareto"}),
        (_tabulate_class_metrics, {"confusion"}),
        (_tabulate_comparisons, set()),
        (_tabulate_paper, set()),
        (_tabulate_arousal, set()),
        (_tabulate_layer_weights, set()),
        (_tabulate_rows, set()),
        (_tabulate_class_weights, set()),
        (_tabulate_calibration, {"reliability"}),
        (_tabulate_variance, set()),
    )
    blocks: list[Block] = list(_describe_study(doc))
    for build_section, shown in sections:
        blocks += build_section(doc)
        blocks += [Picture(name, CAPTIONS[name]) for name in pictures if name in shown]
    return [*blocks, *_tabulate_search(doc), *_list_notes(doc)]


# ---------------------------------------------------------------- what it is


def _describe_study(doc: Doc) -> list[Block]:
    folds, rows = doc["folds"], doc["rows"][doc["corpus"]]
    others = sum(rows["left_out"].values())
    left_out = f" ({others} of other labels left out)" if others else ""
    tested = f", tested on all of {doc['test']}" if doc["test"] else ""
    summary = [Text(doc["summary"])] if doc.get("summary") else []
    if doc.get("parts"):
        return [Heading(doc["study"], 1), *summary, Table(_build_part_rows(doc))]
    weights = [Text("weights: random (the encoder is untrained: these figures show the path, not the method)")]
    return [
        Heading(doc["study"], 1),
        *summary,
        Text(
            f"{doc['corpus']}, {rows['used']} utterances{left_out}; folds {folds['kind']}:"
            f" {len(folds['names'])}{tested}; seeds: {doc['seeds']}"
        ),
        Text(f"recipe {doc['recipe']}; encoder {doc['encoder']}"),
        *(weights if doc["weights"] == "random" else []),
    ]


def _build_part_rows(doc: Doc) -> list[list[str]]:
    """Each part, and what sets it apart from the others."""
    facts = list(doc["parts"].values())
    keys = [key for key in facts[0] if key == "training rows" or len({fact[key] for fact in facts}) > 1]
    return [["part", *keys], *([part, *(fact[key] for key in keys)] for part, fact in doc["parts"].items())]


def _tabulate_rows(doc: Doc) -> list[Block]:
    """How many rows of each corpus took part, by class, and why others did not."""
    head = ["corpus", "used", *CLASSES, "skipped", "missing", "other labels"]
    rows = [
        [
            corpus,
            str(r["used"]),
            *(str(r["classes"].get(name, 0)) for name in CLASSES),
            str(r["skipped"]),
            str(r["missing"]),
            ", ".join(f"{label} {count}" for label, count in r["left_out"].items()) or "none",
        ]
        for corpus, r in doc["rows"].items()
    ]
    return [Heading("Rows"), Table([head, *rows])]


def _tabulate_class_weights(doc: Doc) -> list[Block]:
    """The weights that balance the classes of training rows."""
    if not doc.get("class_weights"):
        return []
    rows = [
        [arm, *(f"{weights[c]:.4f}" if c in weights else "-" for c in CLASSES)]
        for arm, weights in doc["class_weights"].items()
    ]
    text = "The weights that balance the classes, n / (k n_c) of the training rows, mean over folds."
    return [Heading("Class weights"), Text(text), Table([["arm", *CLASSES], *rows])]


def _list_notes(doc: Doc) -> list[Block]:
    return [Heading("To know"), Bullets(doc["notes"])] if doc["notes"] else []


# ---------------------------------------------------------------- scores


def _tabulate_scores(doc: Doc) -> list[Block]:
    return [Heading("Scores"), Table(_build_score_rows(doc, _format_full)), Text(LEGEND)] if doc["results"] else []


def _build_score_rows(doc: Doc, cell: Any) -> list[list[str]]:
    """With `_format_short` the interval of UA has a column of its own."""
    apart = cell is _format_short
    head = [*_list_keys(doc), "WA", "UA", *(["UA 95 %"] if apart else []), "macro F1", "validation UA"]
    return [
        head,
        *(
            [
                *_name_cells(doc, r),
                cell(r["wa"]),
                cell(r["ua"]),
                *([_format_interval(r["ua"]["interval"])] if apart else []),
                cell(r["macro_f1"]),
                _format_short(r["validation_ua"]),
            ]
            for r in doc["results"]
        ),
    ]


def _tabulate_class_metrics(doc: Doc) -> list[Block]:
    titles = {"f1": "F1 by class", "recall": "Recall by class", "precision": "Precision by class"}
    return [
        block
        for name, title in titles.items()
        if doc["results"]
        for block in (Heading(title), Table(_build_class_rows(doc, name, _format_full)))
    ]


def _build_class_rows(doc: Doc, metric: str, cell: Any) -> list[list[str]]:
    title = {"f1": "F1"}.get(metric, metric)
    head = [*_list_keys(doc), *(f"{title} {name}" for name in CLASSES)]
    return [head, *([*_name_cells(doc, r), *(cell(r[metric][name]) for name in CLASSES)] for r in doc["results"])]


def _tabulate_arousal(doc: Doc) -> list[Block]:
    if not doc["results"]:
        return []
    head = [*_list_keys(doc), "high said high", "high said low", "low said high", "low said low"]
    head += ["recall high", "recall low", "precision high", "precision low"]
    rows = [
        [
            *_name_cells(doc, r),
            *(f"{count:.0f}" for row in r["arousal"]["table"] for count in row),
            *(
                _format_estimate(r["arousal"][name][side])
                for name in ("recall", "precision")
                for side in ("high", "low")
            ),
        ]
        for r in doc["results"]
    ]
    text = "Anger and happiness (high) against neutral and sadness (low): how much is left when only arousal is asked."
    return [Heading("Arousal"), Text(text), Table([head, *rows])]


def _tabulate_layer_weights(doc: Doc) -> list[Block]:
    """What a learned sum of layers weighs."""
    learned = [r for r in doc["results"] if r.get("layer_weights")]
    if not learned:
        return []
    count = len(learned[0]["layer_weights"]["mean"])
    rows = [
        [*_name_cells(doc, r), *(f"{m:.3f} ± {s:.3f}" for m, s in zip(*r["layer_weights"].values(), strict=True))]
        for r in learned
    ]
    text = "Softmax weights that the head learnt, mean ± standard deviation over folds and seeds."
    return [
        Heading("Layer weights"),
        Text(text),
        Table([[*_list_keys(doc), *(f"layer {i}" for i in range(count))], *rows]),
    ]


# ---------------------------------------------------------------- comparisons


def _tabulate_comparisons(doc: Doc, limit: int | None = None) -> list[Block]:
    """Every test, or of too many those with the least p."""
    comparisons = doc.get("comparisons", [])
    if not comparisons:
        return []
    shown = comparisons
    if limit is not None and len(comparisons) > limit:
        shown = sorted(comparisons, key=lambda c: (c["adjusted"], c["p"]))[:limit]
    rows = [
        [
            c["metric"],
            _label_result(doc, c["a"]),
            _label_result(doc, c["b"]),
            f"{c['difference']:+.3f}",
            f"{c['p']:.2g}",
            f"{c['adjusted']:.2g}",
            c["verdict"],
        ]
        for c in shown
    ]
    smallest = max(c["smallest"] for c in comparisons)
    speakers = min(c["speakers"] for c in comparisons)
    text = (
        f"Paired permutation tests: whole speakers are swapped between the two ({speakers} speakers, so no p can be"
        f" below {smallest:.2g}); adjusted by Holm over all {len(comparisons)} tests."
    )
    if len(shown) < len(comparisons):
        text += f" The {len(shown)} with the least p are shown, all of them in report.md."
    head = ["metric", "first", "second", "second - first", "p", "adjusted p", "verdict"]
    return [Heading("Compared"), Table([head, *rows]), Text(text)]


def _tabulate_paper(doc: Doc) -> list[Block]:
    paper = doc.get("paper")
    if not paper:
        return []
    rows = [
        [
            row["of"] if "head" not in row else f"{row['of']}, {row['head']}, layer {row['layer']}",
            row["metric"],
            _format_ours(row),
            _format_theirs(row["paper"], row["metric"]),
            row["verdict"],
        ]
        for row in paper["rows"]
    ]
    blocks: list[Block] = [Heading("Beside the paper"), Text(f"The paper's figures: {paper['source']}.")]
    blocks.append(Table([["of", "metric", "ours", "the paper's", "verdict"], *rows]))
    if paper["between"]:
        text = "The paper's own columns, by their printed means and standard deviations (Welch's t; F for the spread):"
        blocks += [Text(text), Bullets(paper["between"])]
    if paper["notes"]:
        blocks += [Text("Where the paper's words and figures part:"), Bullets(paper["notes"])]
    return blocks


def _format_ours(row: Mapping[str, Any]) -> str:
    ours = row["ours"]
    if ours is None:
        return "-"
    if isinstance(ours, Mapping):
        return _format_full(ours)
    return f"{ours:.0f}" if row["metric"].startswith("count.") else f"{ours:.4f}"


def _format_theirs(figure: Mapping[str, Any], metric: str) -> str:
    sd = f" ± {figure['sd']:.3f}" if figure["sd"] is not None else ""
    return f"{figure['mean']:.{0 if metric.startswith('count.') else 3}f}{sd}"


# ---------------------------------------------------------------- calibration, variance, search


def _tabulate_calibration(doc: Doc) -> list[Block]:
    if not doc["results"]:
        return []
    names = {"ece": "ECE", "nll": "NLL", "brier": "Brier"}
    head = [*_list_keys(doc), *names.values(), "temperature", *(f"{name} then" for name in names.values())]
    rows = [
        [
            *_name_cells(doc, r),
            *(_format_short(r["calibration"]["before"][name]) for name in names),
            f"{r['calibration']['temperature']['median']:.2f}",
            *(_format_short(r["calibration"]["after"][name]) for name in names),
        ]
        for r in doc["results"]
    ]
    text = (
        "Do probabilities mean what they say: expected calibration error (15 bins), negative log likelihood (nats) and"
        " Brier score, mean ± standard deviation over folds (all together); and then, with the temperature that each"
        " fold's validation rows give (the median over folds is shown)."
    )
    return [Heading("Calibration"), Text(text), Table([head, *rows])]


def _tabulate_variance(doc: Doc) -> list[Block]:
    """How much of what varies is due to seeds: with one seed nobody knows."""
    repeated = [r for r in doc["results"] if r["variance"]]
    if not repeated:
        return []
    rows = [
        [
            *_name_cells(doc, r),
            f"{sum(r['variance'][part] for part in ('fold', 'seed', 'rest')) ** 0.5:.4f}",
            *(f"{r['variance']['shares'][part]:.0%}" for part in ("fold", "seed", "rest")),
        ]
        for r in repeated
    ]
    text = (
        "Variance of UA over folds and seeds: how much is due to the fold (other speakers), to the seed, to the rest."
    )
    return [
        Heading("Folds and seeds"),
        Text(text),
        Table([[*_list_keys(doc), "standard deviation", "fold", "seed", "rest"], *rows]),
    ]


def _tabulate_search(doc: Doc) -> list[Block]:
    if not doc["search"]:
        return []
    test = {tuple(_read_key(doc, r)): r["ua"]["mean"] for r in doc["results"]}
    rows = [
        [
            *_name_cells(doc, s),
            str(s["trials"]),
            str(s["pruned"]),
            str(s["failed"]),
            f"{s['validation_ua']:.3f}",
            *_format_gap(s["validation_ua"], test.get(tuple(_read_key(doc, s)))),
            _format_params(s["params"]),
        ]
        for s in doc["search"]
    ]
    head = [*_list_keys(doc), "trials", "pruned", "failed", "validation UA", "test UA", "difference", "parameters"]
    text = (
        "Each on the mean validation UA over the folds; no test row was seen. The best of many trials is the best"
        " partly by luck: test UA lies below it, and only test UA is a result."
    )
    return [Heading("Search"), Text(text), Table([head, *rows])]


def _format_gap(validation: float, test: float | None) -> list[str]:
    return ["-", "-"] if test is None else [f"{test:.3f}", f"{test - validation:+.3f}"]


def _format_params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in params.items())


# ---------------------------------------------------------------- cells


def _list_keys(doc: Doc) -> list[str]:
    """What names a result; a study of several parts has one more."""
    return [*(["part"] if doc.get("parts") else []), "arm", "layer", "head"]


def _read_key(doc: Doc, result: Mapping[str, Any]) -> list[str]:
    return [str(result[key]) for key in _list_keys(doc)]


_name_cells = _read_key


def _label_result(doc: Doc, names: Sequence[str]) -> str:
    """A result's names, without those that all results share."""
    all_names = [_read_key(doc, r) for r in doc["results"]]
    varying = [i for i, column in enumerate(zip(*all_names, strict=True)) if len(set(column)) > 1]
    label = {"layer": "layer "}
    return ", ".join(f"{label.get(_list_keys(doc)[i], '')}{names[i]}" for i in varying)


def _format_short(metric: Mapping[str, Any]) -> str:
    """ "0.607 ± 0.021 (0.609)": mean, standard deviation over folds, pooled."""
    if metric["mean"] is None:
        return "-"
    return f"{_format_mean(metric)} ({metric['pooled']:.3f})"


def _format_full(metric: Mapping[str, Any]) -> str:
    """ "0.607 ± 0.021 (0.609, 0.571 to 0.645)": with the interval of the pooled value."""
    if metric["mean"] is None:
        return "-"
    return f"{_format_mean(metric)} ({metric['pooled']:.3f}, {_format_interval(metric['interval'])})"


def _format_mean(metric: Mapping[str, Any]) -> str:
    return f"{metric['mean']:.3f}" + (f" ± {metric['sd']:.3f}" if metric["sd"] is not None else "")


def _format_interval(interval: Mapping[str, Any]) -> str:
    """
    >>> _format_interval({"low": 0.5712, "high": 0.6449})
    '0.571 to 0.645'
    """
    return "no interval" if interval["low"] is None else f"{interval['low']:.3f} to {interval['high']:.3f}"


def _format_estimate(interval: Mapping[str, Any]) -> str:
    if interval["estimate"] is None:
        return "-"
    return f"{interval['estimate']:.3f} ({_format_interval(interval)})"
