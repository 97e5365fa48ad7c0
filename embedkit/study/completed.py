"""Finished studies: their results, their heads, and the head for use that is trained on all rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from embedkit import cards, heads
from embedkit.errors import StudyError, did_you_mean
from embedkit.report.document import Result, read_validation_ua
from embedkit.study.fit import FoldTrainer
from embedkit.study.folder import (
    head_folder,
    list_differences,
    read_fit_records,
    read_predictions,
    read_search_entries,
)
from embedkit.study.plan import ALL_ROWS, Fit, Layer, StudyPlan
from embedkit.study.planning import plan_study
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class ResultChoice(NamedTuple):
    """The names of one result of a study."""

    arm: str
    head: str
    layer: Layer


@dataclass(frozen=True)
class CompletedStudy:
    """A finished study. `plan` has its cards, caches (`plan.sources[corpus].path`), rows and folds."""

    plan: StudyPlan
    results: list[Result]

    @property
    def tested_corpus(self) -> str:
        """The corpus that the heads of the folds were tested on."""
        return self.plan.study.test or self.plan.study.corpus

    def read_predictions(self) -> pd.DataFrame:
        """The predictions of every fit; see `embedkit.study.read_predictions`."""
        return read_predictions(self.plan)

    def read_test_rows(self, choice: ResultChoice) -> pd.DataFrame:
        """The predictions of the test rows by the heads that are kept (those of the first seed)."""
        rows = self.read_predictions()
        chosen = (rows["arm"] == choice.arm) & (rows["layer"] == str(choice.layer)) & (rows["head"] == choice.head)
        return rows[chosen & (rows["seed"] == 0) & (rows["split"] == "test")].reset_index(drop=True)

    def load_fold_head(self, choice: ResultChoice, fold: str) -> heads.Estimator:
        """The head of a fold (by its name in predictions.parquet), as it was when it predicted its test rows."""
        fit = Fit(choice.arm, choice.layer, choice.head, 0, 0)
        return heads.load(self.plan.heads[choice.head].kind, head_folder(self.plan.folder, fit, fold))

    def params(self, choice: ResultChoice) -> dict[str, object]:
        """The parameters that a search found for it, {} without a search."""
        for entry in read_search_entries(self.plan.folder):
            if (entry["arm"], entry["head"], entry["layer"]) == choice:
                return dict(entry["params"])
        return {}

    def refit(self, choice: ResultChoice) -> heads.Estimator:
        """The head for use: trained on every row of the study's corpus and of the arm's mix, with the first seed.

        Where training stopped early in the folds, it trains for the median of their best epochs (iterations). The head
        is kept in heads/<arm>/layer-<N>/<head>/final/ and loaded from there the next time. Raises StudyError for a
        study that normalises features, which an exported file cannot do.
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
            record["best"]
            for record in read_fit_records(self.plan.folder)
            if (record["arm"], record["head"], record["layer"], record["seed"]) == (*choice, 0)
            and record["best"] is not None
        ]
        if best_rounds and (parameter := heads.find_rounds_parameter(card)):
            params[parameter] = max(1, round(float(np.median(best_rounds))))
        estimator = FoldTrainer(self.plan).fit(fit, params, None)
        draft = folder.with_name("final.draft")
        shutil.rmtree(draft, ignore_errors=True)
        heads.save(card.kind, estimator, draft)
        draft.replace(folder)
        return estimator


def open_study(workspace: Workspace, name: str | None = None) -> CompletedStudy:
    """Open a finished study by its name; None: the newest.

    Raises StudyError where there is none, it is not finished, or its caches have changed since.
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
    """The plan of a study that was begun. Raises StudyError where its caches have changed since."""
    folder = workspace.study(name)
    data = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    head_cards = {n: cards.build(cards.Head, {**c, "name": n}) for n, c in data["settings"]["heads"].items()}
    planned = plan_study(workspace, cards.build(cards.Study, {**data["card"], "name": name}), head_cards, partial=True)
    now = json.loads(json.dumps(planned.settings()))
    if changes := list_differences(data["settings"], now):
        raise StudyError(f"{folder}: what it was made of has changed since ({changes[0]}); run a study anew")
    return planned


def choose_best_result(
    results: Sequence[Result], *, head: str | None = None, arm: str | None = None, layer: Layer | None = None
) -> ResultChoice:
    """The (arm, head, layer) with the best mean validation UA, among the results with this head, arm and layer.

    Raises StudyError where there is no such result.
    """
    if not results:
        raise StudyError("the study has no results, because it trained no heads")
    given: dict[Literal["head", "arm", "layer"], Layer | None] = {"head": head, "arm": arm, "layer": layer}
    wanted = {key: value for key, value in given.items() if value is not None}
    candidates = [r for r in results if all(r[key] == value for key, value in wanted.items())]
    if not candidates:
        unknown = [key for key, value in wanted.items() if all(r[key] != value for r in results)]
        key = next(iter(unknown or wanted))
        known = {str(r[key]) for r in results}
        raise StudyError(f"the study has no result with {key} '{wanted[key]}'{did_you_mean(str(wanted[key]), known)}")
    best = max(candidates, key=read_validation_ua)
    return ResultChoice(best["arm"], best["head"], best["layer"])
