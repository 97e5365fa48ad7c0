"""A finished study, for those who use its heads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embedkit import cards, heads
from embedkit.errors import StudyError, did_you_mean
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import head_folder, list_differences, read_list, read_predictions
from embedkit.study.plan import ALL_ROWS, Fit, Layer, StudyPlan
from embedkit.study.planning import plan_study
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class ResultChoice(NamedTuple):
    """One result of a study."""

    arm: str
    head: str
    layer: Layer


@dataclass(frozen=True)
class CompletedStudy:
    """A study that has its results. `plan` has its cards, caches (`plan.sources[corpus].path`), rows and folds."""

    plan: StudyPlan
    results: list[dict[str, Any]]

    def read_predictions(self) -> pd.DataFrame:
        """The record; see the head of this module."""
        return read_predictions(self.plan)

    def read_test_rows(self, choice: ResultChoice) -> pd.DataFrame:
        """The record's test rows of the heads that are kept (first seed)."""
        rows = self.read_predictions()
        chosen = (rows["arm"] == choice.arm) & (rows["layer"] == str(choice.layer)) & (rows["head"] == choice.head)
        return rows[chosen & (rows["seed"] == 0) & (rows["split"] == "test")].reset_index(drop=True)

    def load_fold_head(self, choice: ResultChoice, fold: str) -> heads.Estimator:
        """The head of a fold (by its name in the record), as it was when it predicted its test rows."""
        fit = Fit(choice.arm, choice.layer, choice.head, 0, 0)
        return heads.load(self.plan.heads[choice.head].kind, head_folder(self.plan.folder, fit, fold))

    def params(self, choice: ResultChoice) -> dict[str, Any]:
        """What a search has found for it, {} without one."""
        for entry in read_list(self.plan.folder / "search.json"):
            if (entry["arm"], entry["head"], entry["layer"]) == choice:
                return dict(entry["params"])
        return {}

    def refit(self, choice: ResultChoice) -> heads.Estimator:
        """The head for use: trained on every row of the study's corpus and of the arm's mix, with the first seed.

        Where a fold's training stopped early, this one ends at the median of the folds' best epochs (iterations).
        Kept in heads/<arm>/layer-<N>/<head>/final/ and loaded from there the next time.
        """
        fit = Fit(choice.arm, choice.layer, choice.head, 0, ALL_ROWS)
        folder, card = self.plan.folder / "heads" / fit.folder() / "final", self.plan.heads[choice.head]
        if self.plan.study.normalise != "none":
            raise StudyError(
                f'study {self.plan.study.name}: an exported file cannot normalise = "{self.plan.study.normalise}";'
                ' run and export a study with normalise = "none"'
            )
        if folder.is_dir():
            return heads.load(card.kind, folder)
        params = self.params(choice)
        best_rounds = [
            u["best"]
            for u in read_list(self.plan.folder / "units.json")
            if (u["arm"], u["head"], u["layer"], u["seed"]) == (*choice, 0) and u["best"] is not None
        ]
        if best_rounds and heads.find_rounds_parameter(card):
            params[heads.find_rounds_parameter(card)] = max(1, round(float(np.median(best_rounds))))
        estimator = FoldTrainer(self.plan).fit(fit, params, None)
        draft = folder.with_name("final.draft")
        shutil.rmtree(draft, ignore_errors=True)
        heads.save(card.kind, estimator, draft)
        draft.replace(folder)
        return estimator


def open_study(workspace: Workspace, name: str | None = None) -> CompletedStudy:
    """A finished study by its name; None: the newest.

    Raises StudyError where there is none, it is not finished, or its caches are not what they were.
    """
    done = {p.parent.name: p.stat().st_mtime for p in workspace.studies.glob("*/results.json")}
    if name is None and not done:
        raise StudyError(f"no finished study in {workspace.studies}; try: embedkit study")
    name = name or max(done, key=lambda n: done[n])
    folder = workspace.study(name)
    if name not in done:
        begun = (folder / "study.json").is_file()
        raise StudyError(
            f"study '{name}' is {'not finished; run it again' if begun else f'unknown{did_you_mean(name, done)}'}"
        )
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
    return CompletedStudy(rebuild_plan(workspace, name), results)


def rebuild_plan(workspace: Workspace, name: str) -> StudyPlan:
    """The plan of a study that was begun. Raises StudyError where its caches are not what they were."""
    folder = workspace.study(name)
    data = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    head_cards = {n: cards.build(cards.Head, {**c, "name": n}) for n, c in data["settings"]["heads"].items()}
    planned = plan_study(workspace, cards.build(cards.Study, {**data["card"], "name": name}), head_cards, partial=True)
    now = json.loads(json.dumps(planned.settings()))
    if changes := list_differences(data["settings"], now):
        raise StudyError(f"{folder}: what it was made of has changed since ({changes[0]}); run a study anew")
    return planned


def choose_best_result(results: Sequence[Mapping[str, Any]], **wanted: Any) -> ResultChoice:
    """The (arm, head, layer) with the best mean validation UA; wanted: arm, head or layer that it must have.

    Raises StudyError where none has.
    """
    wanted = {key: value for key, value in wanted.items() if value is not None}
    candidates = [r for r in results if all(r[key] == value for key, value in wanted.items())]
    if not candidates:
        key, value = next((k, v) for k, v in wanted.items() if all(r[k] != v for r in results) or len(wanted) > 1)
        known = {str(r[key]) for r in results}
        raise StudyError(f"the study has no result with {key} '{value}'{did_you_mean(str(value), known)}")
    winner = max(candidates, key=lambda r: r["validation_ua"]["mean"])
    return ResultChoice(winner["arm"], winner["head"], winner["layer"])
