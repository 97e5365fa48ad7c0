"""What a report says, section by section: `build_summary` for a terminal, `build_report` for a page.

Each section takes the document and gives its blocks; a section without data gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from embedkit.classes import CLASSES
from embedkit.report.blocks import Block, Bullets, Heading, Picture, Table, Text
from embedkit.report.cells import (
    format_estimate,
    format_full,
    format_interval,
    format_params,
    format_short,
    label_result,
    list_keys,
    list_names,
)
from embedkit.report.document import ClassScore, Metric, PaperRow, PrintedFigure, StudyDocument

MAX_COMPARISONS = 12  # on a terminal; a page has all comparisons

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
    "confusion": "Confusion matrices: of each class's utterances (rows), the share that was predicted as each class,"
    " with the counts over all folds and seeds.",
    "reliability": "Accuracy against confidence. On the diagonal, 80 % of the predictions with 80 % confidence are"
    " right. Solid: as trained; dashed: with the temperature that validation gives; bars: the number of predictions.",
    "pareto": "UA with its 95 % interval by speaker against the bytes of the encoder's weights in float32. The line"
    " joins the encoders that no smaller one reaches.",
}


def build_summary(doc: StudyDocument) -> list[Block]:
    """For a terminal: what the study is, the scores, F1 by class, comparisons, the paper's figures, and notes."""
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
        Table(_build_score_rows(doc, format_short)),
        Table(_build_class_rows(doc, "f1", format_short)),
    ]
    return [
        *parts,
        Text(legend),
        *_tabulate_comparisons(doc, MAX_COMPARISONS)[1:],
        *_tabulate_paper(doc)[1:],
        *_tabulate_search(doc)[1:],
        *_list_notes(doc)[1:],
    ]


def build_report(doc: StudyDocument, pictures: Sequence[str]) -> list[Block]:
    """The whole report. pictures: the names of those that were drawn."""
    # Each section, and the pictures that follow it.
    sections: tuple[tuple[Callable[[StudyDocument], list[Block]], set[str]], ...] = (
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


# ---------------------------------------------------------------- what the study is


def _describe_study(doc: StudyDocument) -> list[Block]:
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


def _build_part_rows(doc: StudyDocument) -> list[list[str]]:
    """Each part, and the settings in which parts differ."""
    facts = list(doc["parts"].values())
    keys = [key for key in facts[0] if key == "training rows" or len({fact[key] for fact in facts}) > 1]
    return [["part", *keys], *([part, *(fact[key] for key in keys)] for part, fact in doc["parts"].items())]


def _tabulate_rows(doc: StudyDocument) -> list[Block]:
    """How many rows of each corpus took part, by class, and how many did not."""
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


def _tabulate_class_weights(doc: StudyDocument) -> list[Block]:
    """The weights that balance the classes of the training rows."""
    if not doc.get("class_weights"):
        return []
    rows = [
        [arm, *(f"{weights[c]:.4f}" if c in weights else "-" for c in CLASSES)]
        for arm, weights in doc["class_weights"].items()
    ]
    text = "The weights that balance the classes, n / (k n_c) of the training rows, mean over folds."
    return [Heading("Class weights"), Text(text), Table([["arm", *CLASSES], *rows])]


def _list_notes(doc: StudyDocument) -> list[Block]:
    return [Heading("Notes"), Bullets(doc["notes"])] if doc["notes"] else []


# ---------------------------------------------------------------- scores


def _tabulate_scores(doc: StudyDocument) -> list[Block]:
    return [Heading("Scores"), Table(_build_score_rows(doc, format_full)), Text(LEGEND)] if doc["results"] else []


def _build_score_rows(doc: StudyDocument, cell: Callable[[Metric], str]) -> list[list[str]]:
    """A row for each result; with `format_short` the interval of UA has its own column."""
    apart = cell is format_short
    head = [*list_keys(doc), "WA", "UA", *(["UA 95 %"] if apart else []), "macro F1", "validation UA"]
    return [
        head,
        *(
            [
                *list_names(doc, r),
                cell(r["wa"]),
                cell(r["ua"]),
                *([format_interval(r["ua"]["interval"])] if apart else []),
                cell(r["macro_f1"]),
                format_short(r["validation_ua"]),
            ]
            for r in doc["results"]
        ),
    ]


def _tabulate_class_metrics(doc: StudyDocument) -> list[Block]:
    titles: dict[ClassScore, str] = {
        "f1": "F1 by class",
        "recall": "Recall by class",
        "precision": "Precision by class",
    }
    return [
        block
        for name, title in titles.items()
        if doc["results"]
        for block in (Heading(title), Table(_build_class_rows(doc, name, format_full)))
    ]


def _build_class_rows(doc: StudyDocument, metric: ClassScore, cell: Callable[[Metric], str]) -> list[list[str]]:
    title = "F1" if metric == "f1" else metric
    head = [*list_keys(doc), *(f"{title} {name}" for name in CLASSES)]
    return [head, *([*list_names(doc, r), *(cell(r[metric][name]) for name in CLASSES)] for r in doc["results"])]


def _tabulate_arousal(doc: StudyDocument) -> list[Block]:
    if not doc["results"]:
        return []
    head = [*list_keys(doc), "high as high", "high as low", "low as high", "low as low"]
    head += ["recall high", "recall low", "precision high", "precision low"]
    rows = [
        [
            *list_names(doc, r),
            *(f"{count:.0f}" for row in r["arousal"]["table"] for count in row),
            *(
                format_estimate(intervals[side])
                for intervals in (r["arousal"]["recall"], r["arousal"]["precision"])
                for side in ("high", "low")
            ),
        ]
        for r in doc["results"]
    ]
    text = "Anger and happiness (high) against neutral and sadness (low): the scores when only arousal counts."
    return [Heading("Arousal"), Text(text), Table([head, *rows])]


def _tabulate_layer_weights(doc: StudyDocument) -> list[Block]:
    """The weights of a learned sum of layers."""
    learned = [(r, r["layer_weights"]) for r in doc["results"] if r.get("layer_weights")]
    if not learned:
        return []
    count = len(learned[0][1]["mean"])
    rows = [
        [*list_names(doc, r), *(f"{m:.3f} ± {s:.3f}" for m, s in zip(weights["mean"], weights["sd"], strict=True))]
        for r, weights in learned
    ]
    text = "Softmax weights that the head learnt, mean ± standard deviation over folds and seeds."
    return [
        Heading("Layer weights"),
        Text(text),
        Table([[*list_keys(doc), *(f"layer {i}" for i in range(count))], *rows]),
    ]


# ---------------------------------------------------------------- comparisons


def _tabulate_comparisons(doc: StudyDocument, limit: int | None = None) -> list[Block]:
    """Every comparison, or of more than `limit` those with the least p."""
    comparisons = doc.get("comparisons", [])
    if not comparisons:
        return []
    shown = comparisons
    if limit is not None and len(comparisons) > limit:
        shown = sorted(comparisons, key=lambda c: (c["adjusted"], c["p"]))[:limit]
    rows = [
        [
            c["metric"],
            label_result(doc, c["a"]),
            label_result(doc, c["b"]),
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
    return [Heading("Comparisons"), Table([head, *rows]), Text(text)]


def _tabulate_paper(doc: StudyDocument) -> list[Block]:
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
    blocks: list[Block] = [Heading("Compared with the paper"), Text(f"The paper's figures: {paper['source']}.")]
    blocks.append(Table([["of", "metric", "ours", "the paper's", "verdict"], *rows]))
    if paper["between"]:
        text = "The paper's own columns, by their printed means and standard deviations (Welch's t; F for the spread):"
        blocks += [Text(text), Bullets(paper["between"])]
    if paper["notes"]:
        blocks += [Text("Where the paper's words and figures part:"), Bullets(paper["notes"])]
    return blocks


def _format_ours(row: PaperRow) -> str:
    ours = row["ours"]
    if ours is None:
        return "-"
    if isinstance(ours, float):
        return f"{ours:.0f}" if row["metric"].startswith("count.") else f"{ours:.4f}"
    return format_full(ours)


def _format_theirs(figure: PrintedFigure, metric: str) -> str:
    sd = f" ± {figure['sd']:.3f}" if figure["sd"] is not None else ""
    return f"{figure['mean']:.{0 if metric.startswith('count.') else 3}f}{sd}"


# ---------------------------------------------------------------- calibration, variance, search


def _tabulate_calibration(doc: StudyDocument) -> list[Block]:
    if not doc["results"]:
        return []
    names: dict[Literal["ece", "nll", "brier"], str] = {"ece": "ECE", "nll": "NLL", "brier": "Brier"}
    head = [*list_keys(doc), *names.values(), "temperature", *(f"{name} then" for name in names.values())]
    rows = [
        [
            *list_names(doc, r),
            *(format_short(r["calibration"]["before"][name]) for name in names),
            f"{r['calibration']['temperature']['median']:.2f}",
            *(format_short(r["calibration"]["after"][name]) for name in names),
        ]
        for r in doc["results"]
    ]
    text = (
        "Expected calibration error (15 bins), negative log likelihood (nats) and Brier score, mean ± standard"
        " deviation over folds (all predictions together); and then, with the temperature that each fold's validation"
        " rows give (the median over folds is shown)."
    )
    return [Heading("Calibration"), Text(text), Table([head, *rows])]


def _tabulate_variance(doc: StudyDocument) -> list[Block]:
    """How much of the variance is due to folds and to seeds; only where there are several seeds."""
    repeated = [(r, variance) for r in doc["results"] if (variance := r["variance"])]
    if not repeated:
        return []
    rows = [
        [
            *list_names(doc, r),
            f"{(variance['fold'] + variance['seed'] + variance['rest']) ** 0.5:.4f}",
            *(f"{variance['shares'][part]:.0%}" for part in ("fold", "seed", "rest")),
        ]
        for r, variance in repeated
    ]
    text = (
        "Variance of UA over folds and seeds: how much is due to the fold (other speakers), to the seed, to the rest."
    )
    return [
        Heading("Folds and seeds"),
        Text(text),
        Table([[*list_keys(doc), "standard deviation", "fold", "seed", "rest"], *rows]),
    ]


def _tabulate_search(doc: StudyDocument) -> list[Block]:
    if not doc["search"]:
        return []
    test = {tuple(list_names(doc, r)): r["ua"]["mean"] for r in doc["results"]}
    rows = [
        [
            *list_names(doc, s),
            str(s["trials"]),
            str(s["pruned"]),
            str(s["failed"]),
            f"{s['validation_ua']:.3f}",
            *_format_gap(s["validation_ua"], test.get(tuple(list_names(doc, s)))),
            format_params(s["params"]),
        ]
        for s in doc["search"]
    ]
    head = [*list_keys(doc), "trials", "pruned", "failed", "validation UA", "test UA", "difference", "parameters"]
    text = (
        "Each search maximises the mean validation UA over the folds; no test row was seen. The best of many trials is"
        " the best partly by luck: test UA lies below it, and only test UA is a result."
    )
    return [Heading("Search"), Text(text), Table([head, *rows])]


def _format_gap(validation: float, test: float | None) -> list[str]:
    return ["-", "-"] if test is None else [f"{test:.3f}", f"{test - validation:+.3f}"]
