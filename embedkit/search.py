"""Search a head's space with Optuna, on the validation UA of each fold. Test rows are never seen here."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

# Optuna: samplers, pruners, and storages that survive a kill.
import optuna

from embedkit import cards
from embedkit.errors import StudyError

Folds = Callable[[dict[str, Any]], Generator[float, None, None]]
COUNTED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


@dataclass(frozen=True)
class Found:
    """What a search ended with. `trials` counts the finished ones, pruned included."""

    params: dict[str, Any]
    value: float  # mean validation UA over the folds, 0..1
    trials: int
    pruned: int


def search(
    name: str,
    space: Mapping[str, cards.Space],
    folds: Folds,
    settings: cards.Search,
    storage: str,
    told: Callable[[int], None] = lambda _: None,
) -> Found:
    """The best parameters of a space by the mean over `folds(params)`, which yields one validation UA a fold in order.

    name: of the search in the storage; one that is there already goes on until settings.trials are finished. After
    each fold the mean so far is reported, and the pruner may end the trial: the same folds lie behind the same step
    of every trial, so trials are compared like with like. told: called with the number of finished trials.

    Raises StudyError where the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = _open(name, settings, storage)

    def objective(trial: optuna.Trial) -> float:
        values: list[float] = []
        with closing(folds(_suggest(trial, space))) as scores:
            for step, value in enumerate(scores):
                values.append(value)
                trial.report(sum(values) / len(values), step)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return sum(values) / len(values)

    while (done := _count(study, *COUNTED)) < settings.trials:
        told(done)
        study.optimize(objective, n_trials=1)
    told(done)
    return Found(study.best_params, study.best_value, done, _count(study, optuna.trial.TrialState.PRUNED))


def _open(name: str, settings: cards.Search, storage: str) -> optuna.Study:
    try:
        known = {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(storage)}
        # A sampler that starts again with its first seed would draw its first points again.
        seed = settings.seed + known.get(name, 0)
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        pruners = {"median": optuna.pruners.MedianPruner, "none": optuna.pruners.NopPruner}
        return optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            sampler=samplers[settings.sampler](seed=seed),
            pruner=pruners[settings.pruner](),
        )
    except Exception as error:  # each database has its own errors: any of them means that it cannot be used
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise StudyError(f"storage {without_password(storage)} cannot be used ({said}); give --storage URL") from None


def without_password(url: str) -> str:
    """A storage's URL as it may be shown and written.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    return re.sub(r"(://[^/:@]*):[^@]*@", r"\1:***@", url)


def _count(study: optuna.Study, *states: optuna.trial.TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))


def _suggest(trial: optuna.Trial, space: Mapping[str, cards.Space]) -> dict[str, Any]:
    return {name: _draw(trial, name, range_) for name, range_ in space.items()}


def _draw(trial: optuna.Trial, name: str, space: cards.Space) -> Any:
    if isinstance(space, cards.IntRange):
        return trial.suggest_int(name, space.low, space.high, step=space.step, log=space.log)
    if isinstance(space, cards.FloatRange):
        return trial.suggest_float(name, space.low, space.high, log=space.log)
    return trial.suggest_categorical(name, space.of)
