"""Search a head's parameters with Optuna, on the validation UA of each fold. Test rows are never used here."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass

# Optuna: samplers, pruners, and storages that survive a kill and that several processes can share.
import optuna

from embedkit import cards
from embedkit.errors import FitError, StudyError

FoldScores = Callable[[Mapping[str, object]], Generator[float, None, None]]
State = optuna.trial.TrialState
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
PRUNERS = {"median": optuna.pruners.MedianPruner, "none": optuna.pruners.NopPruner}
FAILURE_REASON = "reason"  # the attribute of a trial that says why it failed


@dataclass(frozen=True)
class SearchResult:
    """The best trial of a search, and how many trials there were: `trials` includes those pruned and failed."""

    params: dict[str, object]
    value: float  # mean validation UA over the folds, 0..1
    trials: int
    pruned: int
    failed: int


def search_parameters(
    name: str,
    space: Mapping[str, cards.Space],
    score_folds: FoldScores,
    settings: cards.Search,
    storage: str,
    on_progress: Callable[[int], object] = lambda _: None,
) -> SearchResult:
    """Find the parameters of a space with the best mean validation UA over folds.

    score_folds(params) yields the validation UA of each fold, in order. name: of the search in the storage; a search
    that is there already is continued until settings.trials are finished, and processes that search under one name at
    the same time share the trials (each may add the one that it was running). After each fold the mean so far is
    reported, and the pruner may end the trial: every trial's step has the same folds, so trials are comparable. A trial
    that was cut short by a kill does not count; one whose head could not be fitted (FitError) does. on_progress: called
    with the number of finished trials.

    Raises StudyError where the storage cannot be opened, or no trial could be fitted.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = _open_optuna_study(name, settings, storage)

    def objective(trial: optuna.Trial) -> float:
        # A sampler for each trial, seeded by its number: a search that is continued after a kill, or that several
        # processes share, never draws the same points again.
        study.sampler = SAMPLERS[settings.sampler](seed=settings.seed * 1_000_003 + trial.number)
        values: list[float] = []
        try:
            with closing(score_folds(_suggest_params(trial, space))) as scores:
                for step, value in enumerate(scores):
                    values.append(value)
                    trial.report(sum(values) / len(values), step)
                    if trial.should_prune():
                        raise optuna.TrialPruned
        except FitError as error:
            trial.set_user_attr(FAILURE_REASON, str(error))
            raise
        return sum(values) / len(values)

    while (done := len(_list_finished_trials(study))) < settings.trials:
        on_progress(done)
        study.optimize(objective, n_trials=1, catch=FitError)
    on_progress(done)
    return _collect_result(study)


def _open_optuna_study(name: str, settings: cards.Search, storage: str) -> optuna.Study:
    try:
        return optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            pruner=PRUNERS[settings.pruner](),
        )
    except ModuleNotFoundError:  # a driver that an extra brings
        raise
    except Exception as error:  # each database raises other errors; any of them means that it cannot be used
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise StudyError(f"storage {mask_password(storage)} cannot be used ({message}); give --storage URL") from None


def _list_finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Finished trials, in order of their numbers. Trials that Ctrl-C ended failed too, but without a reason of ours."""
    trials = study.get_trials(deepcopy=False, states=(State.COMPLETE, State.PRUNED, State.FAIL))
    return [t for t in trials if t.state != State.FAIL or FAILURE_REASON in t.user_attrs]


def _collect_result(study: optuna.Study) -> SearchResult:
    trials = _list_finished_trials(study)
    count = {state: sum(t.state == state for t in trials) for state in (State.COMPLETE, State.PRUNED, State.FAIL)}
    if not count[State.COMPLETE]:
        reason = next((t.user_attrs[FAILURE_REASON] for t in trials if t.state == State.FAIL), "all were pruned")
        raise StudyError(f"search: none of {len(trials)} trials could be fitted; the first: {reason}")
    return SearchResult(study.best_params, study.best_value, len(trials), count[State.PRUNED], count[State.FAIL])


def mask_password(url: str) -> str:
    """The URL of a storage without its password, to be shown.

    >>> mask_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    return re.sub(r"(://[^/:@]*):[^@]*@", r"\1:***@", url)


def _suggest_params(trial: optuna.Trial, space: Mapping[str, cards.Space]) -> dict[str, object]:
    return {name: _suggest_value(trial, name, range_) for name, range_ in space.items()}


def _suggest_value(trial: optuna.Trial, name: str, space: cards.Space) -> object:
    if isinstance(space, cards.IntRange):
        return trial.suggest_int(name, space.low, space.high, step=space.step, log=space.log)
    if isinstance(space, cards.FloatRange):
        return trial.suggest_float(name, space.low, space.high, log=space.log)
    return trial.suggest_categorical(name, space.of)
