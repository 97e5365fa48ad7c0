"""What leaks: who or what stands on more than one side of a split, and whether a fit saw more than its training rows.

    speaker    a speaker on two sides                                        fails
    recording  identical sound on two sides                                  fails
    views      sound that is validated or tested, trained on as views        fails
    partner    a conversation on two sides, by different speakers            fails where folds are sessions, else told
    text       a sentence on two sides                                       told; fails with audit.text = "fail"
    labels     identical sound under two classes                             told
    fit        a head that was trained on, or stopped by, other rows         fails
    search     a search that read more than training and validation rows     fails
    scaler     a scaler that saw rows that are tested                        fails

The first six look at a plan, before anything trains; fit and search hold what a study kept against its plan. Scalers
are looked at both times: whether the plan has features standardised by what is tested (`normalise = "speaker"`), and
whether a kept head's scaler has the mean of its training rows.

What fails is allowed by its name in the card: `[audit] allow = ["speaker"]`. Folds of clips (`shuffle`, `clips`) are a
way to ask for crossing speakers, so they allow `speaker`; that leak is told all the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.errors import StudyError
from embedkit.study import folds
from embedkit.study.folds import Fold
from embedkit.study.plan import StudyPlan

Words = npt.NDArray[np.str_]
Numbers = npt.NDArray[np.float64]

EXAMPLES, SHOWN = 20, 3  # of a finding: how many are kept, and how many are printed
ROUNDING = 1e-6  # standard deviations by which a scaler's mean may differ from that of its training rows

# check -> what crosses, and what follows from it
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
    """One kind of leak, over all folds and arms. `text` says it in plain words."""

    check: str
    verdict: Literal["fail", "allowed", "report"]
    count: int  # of speakers, recordings, conversations, sentences, fits or searches
    examples: list[str]
    folds: list[str]
    arms: list[str]
    text: str


def list_checks(planned: StudyPlan) -> list[str]:
    """What is looked for in a plan; without augmented views there is nothing to look for among them."""
    scaler = ["scaler"] if planned.study.normalise != "none" else []
    return [*(check for check in CROSSING if check != "views" or planned.views), "labels", *scaler]


def audit_plan(planned: StudyPlan) -> list[Finding]:
    """Everything that crosses a split, and contradicting labels. Reads nothing but the plan's columns."""
    columns = planned.columns
    names = _prefix_corpus(planned, "ids")
    sound = np.where(columns["audio_digest"] == "", names, columns["audio_digest"])
    findings = [
        _find_crossing(planned, "speaker", columns["speaker"]),
        _find_crossing(planned, "recording", sound, names),
        _find_crossing(planned, "views", sound, names) if planned.views else None,
        # Folds by session keep sessions whole; a dialogue may still go on in another one.
        _find_crossing(planned, "partner", _prefix_corpus(planned, "session"))
        or _find_crossing(planned, "partner", _prefix_corpus(planned, "dialogue")),
        _find_crossing(planned, "text", _prefix_corpus(planned, "text")),
        _find_label_conflicts(planned, names),
        _find_speaker_scaling(planned),
    ]
    return [finding for finding in findings if finding]


def _prefix_corpus(planned: StudyPlan, column: str) -> Words:
    """[row] "corpus/word" of a column; "" where it is not known."""
    words = planned.columns[column]
    return np.where(words == "", "", np.char.add(np.char.add(planned.columns["corpus"], "/"), words))


def _find_crossing(planned: StudyPlan, check: str, key: Words, names: Words | None = None) -> Finding | None:
    """The words of key [row] that lie on more than one side of a fold, None without any.

    names: [row], with which an example is told where its key says nothing to people.
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
    if check == "views":  # validation and test are clean: only what is trained on has views
        fold = replace(fold, validate=fold.test[:0], test=np.concatenate([fold.validate, fold.test]))
    words = [word for word in folds.find_crossing_groups(fold, key) if word]
    if check == "partner" and words:
        rows = np.concatenate([fold.train, fold.validate, fold.test])
        pairs = set(zip(key[rows].tolist(), planned.columns["speaker"][rows].tolist(), strict=True))
        speakers = Counter(word for word, _ in pairs)
        words = [word for word in words if speakers[word] > 1]
    return words


def _decide_verdict(planned: StudyPlan, check: str) -> Literal["fail", "allowed", "report"]:
    study = planned.study
    report_only = {"partner": study.folds.kind not in BY_SESSION, "text": study.audit.text != "fail", "labels": True}
    if report_only.get(check):
        return "report"
    expected = check == "speaker" and study.folds.kind in BY_CLIP
    return "allowed" if expected or check in study.audit.allow else "fail"


def _find_label_conflicts(planned: StudyPlan, names: Words) -> Finding | None:
    """Identical sound that has more than one class."""
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
    """Features that are standardised by the very clips that test them."""
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


def audit_record(
    planned: StudyPlan, units: Iterable[Mapping[str, Any]], searches: Iterable[Mapping[str, Any]]
) -> list[Finding]:
    """Hold units.json and search.json against the plan: every fit and every search names the rows that it was given.

    `saw` is {"train", "validate"} with a digest of each side's rows, for a search one in each fold. Where they are the
    plan's, and `audit` finds nothing on two sides, no fit, scaler or search was given a row that tests it.
    """
    plans = {
        (arm, fold.name): {
            "train": planned.digest_utterances(np.concatenate([fold.train, mixed])),
            "validate": planned.digest_utterances(fold.validate),
        }
        for arm, mixed in planned.arms.items()
        for fold in planned.folds
    }
    fits = [u for u in units if u.get("saw") != plans[u["arm"], u["fold"]]]
    strange = [s for s in searches if s.get("saw") != {f.name: plans[s["arm"], f.name] for f in planned.folds}]
    findings = [
        _build_record_finding(planned, "fit", fits, "heads trained on, or stopped by, other rows than the plan's"),
        _build_record_finding(
            planned, "search", strange, "searches in other rows than the plan's training and validation"
        ),
    ]
    return [finding for finding in findings if finding]


class Scaler(NamedTuple):
    """A kept head's scaler, and what its training rows say."""

    unit: Mapping[str, Any]
    mean: Numbers  # [dim]
    scale: Numbers  # [dim]
    rows: Numbers  # [dim]: the mean of the clean training rows


def audit_scalers(planned: StudyPlan, scalers: Iterable[Scaler]) -> list[Finding]:
    """Hold each kept head's scaler against the rows that it should have been fitted on, and no others."""
    strange = [s.unit for s in scalers if (np.abs(s.mean - s.rows) > ROUNDING * s.scale).any()]
    found = _build_record_finding(
        planned, "scaler", strange, "scalers with another mean than the rows that their heads train on"
    )
    return [found] if found else []


def _build_record_finding(
    planned: StudyPlan, check: str, strange: Sequence[Mapping[str, Any]], description: str
) -> Finding | None:
    """A finding about fits or searches, each told by its arm, layer, head and fold."""
    if not strange:
        return None
    shown = [_describe_fit(each) for each in strange[:EXAMPLES]]
    in_folds = dict.fromkeys(each["fold"] for each in strange if "fold" in each)
    return Finding(
        check,
        _decide_verdict(planned, check),
        len(strange),
        shown,
        list(in_folds),
        list(dict.fromkeys(each["arm"] for each in strange)),
        f"{description}: {len(strange)} ({_join_examples(shown, len(strange))})",
    )


def _describe_fit(facts: Mapping[str, Any]) -> str:
    fold = f", seed {facts['seed']}, fold {facts['fold']}" if "fold" in facts else ""
    return f"{facts['arm']}/layer-{facts['layer']}/{facts['head']}{fold}"


def refuse_leaks(planned: StudyPlan, findings: Sequence[Finding]) -> None:
    """Raise StudyError where something fails, in one line: the first such finding, and how it can be allowed."""
    failing = [finding for finding in findings if finding.verdict == "fail"]
    if failing:
        names = [finding.check for finding in failing]
        also = f" (and {', '.join(names[1:])})" if names[1:] else ""
        allow = json.dumps([*planned.study.audit.allow, *names])
        again = f"remove {planned.folder} and run it again"
        remedies = {"fit": again, "search": again, "scaler": "normalise in another way"}
        remedy = remedies.get(names[0], "take other folds (--folds speaker)")
        raise StudyError(f"audit: {failing[0].text}{also}; {remedy}, or allow it by name: --set 'audit.allow={allow}'")


def build_document(planned: StudyPlan, findings: Sequence[Finding], checked: Sequence[str]) -> dict[str, Any]:
    """What audit.json holds and `embedkit audit --json` prints."""
    return {
        "study": planned.study.name,
        "passed": not any(finding.verdict == "fail" for finding in findings),
        "checked": list(checked),
        "findings": [asdict(finding) for finding in findings],
    }


def format_audit(doc: Mapping[str, Any]) -> str:
    """The same for people: a line a finding, then one for each check that found nothing. Of each part, where there are
    several."""
    if "parts" in doc:
        return "\n".join(map(format_audit, doc["parts"].values()))
    verdict_words = {"fail": "FAIL", "allowed": "allowed", "report": "told"}
    lines = [(verdict_words[f["verdict"]], f["check"], f["text"]) for f in doc["findings"]]
    clean = [check for check in doc["checked"] if check not in {f["check"] for f in doc["findings"]}]
    lines += [("ok", check, "nothing found") for check in clean]
    verdict = "nothing leaks that is not allowed" if doc["passed"] else "leaks that the card does not allow by name"
    return "\n".join([f"{doc['study']}: {verdict}", *(f"  {a:<8} {b:<10} {c}" for a, b, c in lines)])
