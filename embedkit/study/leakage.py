"""Checks for leakage: what is on more than one side of a split, and whether a fit was given other rows than planned.

    speaker    a speaker on two sides                                       fails
    recording  identical sound on two sides                                 fails
    views      augmented views of validation or test sound in training      fails
    partner    a conversation on two sides, by different speakers           fails if folds are sessions, else reported
    text       a sentence on two sides                                      reported; fails with audit.text = "fail"
    labels     identical sound with two classes                             reported
    fit        a head that was trained on, or stopped by, other rows        fails
    search     a search on other rows than training and validation rows     fails
    scaler     a scaler that was fitted on test rows                        fails

The first six check a plan, before anything trains; fit and search compare what a study kept with its plan. Scalers are
checked both times: whether the plan standardises features by test rows (`normalise = "speaker"`), and whether the
scaler of a kept head has the mean of its training rows.

A card allows a failing check by its name: `[audit] allow = ["speaker"]`. Folds of clips (`shuffle`, `clips`) have the
same speakers on all sides by design, so they allow `speaker`; the leak is still reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.errors import StudyError
from embedkit.report.document import FindingDocument, RowDigests, SearchEntry
from embedkit.study import folds
from embedkit.study.document import FitRecord
from embedkit.study.folds import Fold
from embedkit.study.plan import Layer, StudyPlan

Words = npt.NDArray[np.str_]
Numbers = npt.NDArray[np.float64]
Verdict = Literal["fail", "allowed", "report"]

EXAMPLES, SHOWN = 20, 3  # of a finding: how many examples are kept, and how many its text names
ROUNDING = 1e-6  # standard deviations by which a scaler's mean may differ from that of its training rows

# check -> what is on two sides, and what follows from it
CROSSING = {
    "speaker": ("speakers", "so these figures say nothing about a new speaker"),
    "recording": ("recordings", "so these figures count what was learnt by heart"),
    "views": ("views of recordings", "so these figures count what was learnt by heart"),
    "partner": ("conversations", "with another speaker: the room and the dialogue are known"),
    "text": ("sentences", "so what is said may stand in for how it is said"),
}
RECORD_CHECKS = ("fit", "search", "scaler")

BY_SESSION, BY_CLIP = ("loso", "script"), ("shuffle", "clips")  # kinds of folds


@dataclass(frozen=True)
class Finding:
    """One kind of leak, over all folds and arms; `text` describes it in a sentence."""

    check: str
    verdict: Verdict
    count: int  # of speakers, recordings, conversations, sentences, fits or searches
    examples: list[str]
    folds: list[str]
    arms: list[str]
    text: str

    def to_document(self) -> FindingDocument:
        """The fields, as they are written to JSON."""
        return {
            "check": self.check,
            "verdict": self.verdict,
            "count": self.count,
            "examples": self.examples,
            "folds": self.folds,
            "arms": self.arms,
            "text": self.text,
        }


def list_checks(planned: StudyPlan) -> list[str]:
    """The checks that apply to a plan: `views` only with augmented views, `scaler` only where features are scaled."""
    scaler = ["scaler"] if planned.study.normalise != "none" else []
    return [*(check for check in CROSSING if check != "views" or planned.views), "labels", *scaler]


def audit_plan(planned: StudyPlan) -> list[Finding]:
    """The findings of every check of a plan, from the columns of its rows alone."""
    columns = planned.columns
    names = _prefix_corpus(planned, "ids")
    sound = np.where(columns["audio_digest"] == "", names, columns["audio_digest"])
    findings = [
        _find_crossing(planned, "speaker", columns["speaker"]),
        _find_crossing(planned, "recording", sound, names),
        _find_crossing(planned, "views", sound, names) if planned.views else None,
        # Folds by session keep sessions together; a dialogue may still continue in another session.
        _find_crossing(planned, "partner", _prefix_corpus(planned, "session"))
        or _find_crossing(planned, "partner", _prefix_corpus(planned, "dialogue")),
        _find_crossing(planned, "text", _prefix_corpus(planned, "text")),
        _find_label_conflicts(planned, names),
        _find_speaker_scaling(planned),
    ]
    return [finding for finding in findings if finding]


def _prefix_corpus(planned: StudyPlan, column: str) -> Words:
    """[row]: "corpus/value" of a column; "" where the value is not known."""
    words = planned.columns[column]
    return np.where(words == "", "", np.char.add(np.char.add(planned.columns["corpus"], "/"), words))


def _find_crossing(planned: StudyPlan, check: str, key: Words, names: Words | None = None) -> Finding | None:
    """The values of key [row] that are on more than one side of a fold; None without any.

    names: [row], what examples are called where the key itself is not readable.
    """
    words_by_fold: dict[tuple[str, str], list[str]] = {}
    sides: dict[str, set[str]] = {"tested": set(), "validated": set()}
    for fold in planned.folds:
        for arm, mixed in planned.arms.items():
            full_fold = replace(fold, train=np.concatenate([fold.train, mixed]))
            if words := _list_crossing_words(planned, check, key, full_fold):
                words_by_fold[fold.name, arm] = words
        sides["tested"].update(key[fold.test].tolist())
        sides["validated"].update(key[fold.validate].tolist())
    crossing = folds.sort_naturally({word for words in words_by_fold.values() for word in words})
    if not crossing:
        return None
    side = "tested" if sides["tested"] & {*crossing} else "validated"
    shown = crossing[:EXAMPLES]
    if names is not None:
        shown = [" = ".join(names[key == word].tolist()) for word in shown]
    in_folds = list(dict.fromkeys(fold for fold, _ in words_by_fold))
    what, meaning = CROSSING[check]
    verdict = _decide_verdict(planned, check)
    text = (
        f"folds {planned.study.folds.kind} {'share' if verdict == 'report' else 'leak'} {what}:"
        f" {len(sides[side] & {*crossing})} of {len(sides[side] - {''})} {side} are on another side too"
        f" ({_join_examples(shown, len(crossing))}; {len(in_folds)} of {len(planned.folds)} folds), {meaning}"
    )
    return Finding(
        check, verdict, len(crossing), shown, in_folds, list(dict.fromkeys(arm for _, arm in words_by_fold)), text
    )


def _list_crossing_words(planned: StudyPlan, check: str, key: Words, fold: Fold) -> list[str]:
    if check == "views":  # only training rows have views, so validation and test are one side
        fold = replace(fold, validate=fold.test[:0], test=np.concatenate([fold.validate, fold.test]))
    words = [word for word in folds.find_crossing_groups(fold, key) if word]
    if check == "partner" and words:
        rows = np.concatenate([fold.train, fold.validate, fold.test])
        pairs = set(zip(key[rows].tolist(), planned.columns["speaker"][rows].tolist(), strict=True))
        speakers = Counter(word for word, _ in pairs)
        words = [word for word in words if speakers[word] > 1]
    return words


def _decide_verdict(planned: StudyPlan, check: str) -> Verdict:
    study = planned.study
    report_only = {"partner": study.folds.kind not in BY_SESSION, "text": study.audit.text != "fail", "labels": True}
    if report_only.get(check):
        return "report"
    expected = check == "speaker" and study.folds.kind in BY_CLIP
    return "allowed" if expected or check in study.audit.allow else "fail"


def _find_label_conflicts(planned: StudyPlan, names: Words) -> Finding | None:
    """Recordings with identical sound and different classes."""
    digest = planned.columns["audio_digest"]
    classes = Counter(word for word, _ in set(zip(digest.tolist(), planned.y.tolist(), strict=True)) if word)
    twins = sorted(word for word, count in classes.items() if count > 1)
    if not twins:
        return None
    labelled_names = np.char.add(np.char.add(names, " ("), np.char.add(planned.columns["label"], ")"))
    shown = [" = ".join(labelled_names[digest == word].tolist()) for word in twins[:EXAMPLES]]
    text = f"recordings with contradicting labels: {len(twins)} ({_join_examples(shown, len(twins))})"
    return Finding("labels", "report", len(twins), shown, [], [], text)


def _find_speaker_scaling(planned: StudyPlan) -> Finding | None:
    """Features that are standardised by the clips that are tested."""
    if planned.study.normalise != "speaker":
        return None
    tested = np.unique(planned.columns["speaker"][np.concatenate([fold.test for fold in planned.folds])]).tolist()
    text = (
        f'normalise = "speaker" standardises the clips of each of {len(tested)} tested speakers by those very clips, so'
        " these figures are for a speaker of whom much was heard before"
    )
    shown, in_folds = folds.sort_naturally(tested)[:EXAMPLES], [fold.name for fold in planned.folds]
    return Finding("scaler", _decide_verdict(planned, "scaler"), len(tested), shown, in_folds, list(planned.arms), text)


def _join_examples(examples: Sequence[str], count: int) -> str:
    return ", ".join([*examples[:SHOWN], *(["..."] if count > SHOWN else [])])


class FitPlace(NamedTuple):
    """Where a fit or a search belongs; a search has no seed and no fold."""

    arm: str
    layer: Layer
    head: str
    seed: int | None = None
    fold: str | None = None

    def __str__(self) -> str:
        """As an example of a finding: "iemocap/layer-2/mlp, seed 0, fold Ses03"."""
        fold = "" if self.fold is None else f", seed {self.seed}, fold {self.fold}"
        return f"{self.arm}/layer-{self.layer}/{self.head}{fold}"


def audit_record(planned: StudyPlan, fits: Iterable[FitRecord], searches: Iterable[SearchEntry]) -> list[Finding]:
    """Compare units.json and search.json with the plan: every fit and every search names the rows that it was given.

    Where these are the planned rows, and `audit_plan` finds nothing on two sides, no fit, scaler or search was given a
    row that tests it.
    """
    planned_rows: dict[tuple[str, str], RowDigests] = {
        (arm, fold.name): {
            "train": planned.digest_utterances(np.concatenate([fold.train, mixed])),
            "validate": planned.digest_utterances(fold.validate),
        }
        for arm, mixed in planned.arms.items()
        for fold in planned.folds
    }
    strange_fits = [
        FitPlace(fit["arm"], fit["layer"], fit["head"], fit["seed"], fit["fold"])
        for fit in fits
        if fit.get("saw") != planned_rows[fit["arm"], fit["fold"]]
    ]
    strange_searches = [
        FitPlace(search["arm"], search["layer"], search["head"])
        for search in searches
        if search.get("saw") != {fold.name: planned_rows[search["arm"], fold.name] for fold in planned.folds}
    ]
    findings = [
        _build_record_finding(
            planned, "fit", strange_fits, "heads trained on, or stopped by, other rows than the plan's"
        ),
        _build_record_finding(
            planned, "search", strange_searches, "searches in other rows than the plan's training and validation"
        ),
    ]
    return [finding for finding in findings if finding]


class Scaler(NamedTuple):
    """The scaler of a kept head, and the mean that it should have."""

    fit: FitPlace
    mean: Numbers  # [dim]
    scale: Numbers  # [dim]
    rows: Numbers  # [dim]: the mean of the clean training rows


def audit_scalers(planned: StudyPlan, scalers: Iterable[Scaler]) -> list[Finding]:
    """Compare the scaler of each kept head with the training rows of its fit."""
    strange = [s.fit for s in scalers if (np.abs(s.mean - s.rows) > ROUNDING * s.scale).any()]
    finding = _build_record_finding(
        planned, "scaler", strange, "scalers with another mean than the rows that their heads train on"
    )
    return [finding] if finding else []


def _build_record_finding(
    planned: StudyPlan, check: str, strange: Sequence[FitPlace], description: str
) -> Finding | None:
    """A finding about fits or searches; None without any."""
    if not strange:
        return None
    shown = [str(each) for each in strange[:EXAMPLES]]
    return Finding(
        check,
        _decide_verdict(planned, check),
        len(strange),
        shown,
        list(dict.fromkeys(each.fold for each in strange if each.fold is not None)),
        list(dict.fromkeys(each.arm for each in strange)),
        f"{description}: {len(strange)} ({_join_examples(shown, len(strange))})",
    )


def refuse_leaks(planned: StudyPlan, findings: Sequence[Finding]) -> None:
    """Raise StudyError where a check fails, in one line: the first such finding, and how it can be allowed."""
    failing = [finding for finding in findings if finding.verdict == "fail"]
    if failing:
        names = [finding.check for finding in failing]
        also = f" (and {', '.join(names[1:])})" if names[1:] else ""
        allow = json.dumps([*planned.study.audit.allow, *names])
        again = f"remove {planned.folder} and run it again"
        remedies = {"fit": again, "search": again, "scaler": "normalise in another way"}
        remedy = remedies.get(names[0], "take other folds (--folds speaker)")
        raise StudyError(f"audit: {failing[0].text}{also}; {remedy}, or allow it by name: --set 'audit.allow={allow}'")
