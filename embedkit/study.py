"""Studies: cached features, folds and heads to predictions, the record that everything else derives from.

One unit of work is one fit (arm, layer, head, seed, fold), written when it ends: a kill costs the units in flight.

    studies/<name>/study.json            the settings in effect; the same ones resume, others are refused
    studies/<name>/predictions.parquet   utterance, corpus, speaker, session, arm, layer, head, seed, fold, split
                                         (validate or test), label, p_anger, p_happiness, p_neutral, p_sadness
    studies/<name>/units.json            of each fit: its best epoch or iteration, seconds, training rows, warnings, and
                                         digests of the rows that it saw
    studies/<name>/search.json           of each search: the parameters found, trials, pruned, validation UA, rows seen
    studies/<name>/audit.json            what leaks, and what of it is allowed
    studies/<name>/heads/<arm>/layer-<N>/<head>/fold-<fold>/    the first seed's heads; final/ once one is exported
    studies/<name>/results.json, report.md, report.html, figures/
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from embedkit import __version__, adapt, audit, cards, heads, metrics, report
from embedkit.cache import STATS, Cache
from embedkit.cards import CLASSES
from embedkit.errors import EmbedkitError, FitError, StudyError, did_you_mean
from embedkit.folds import Rows
from embedkit.plan import SAFE, WHOLE, Layer, Plan, Source, Triple, Unit, ask, plan
from embedkit.threads import cores
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from embedkit.search import Found

POOL_PAYS = 20.0  # seconds of work that must lie ahead before worker processes are worth their start


# ---------------------------------------------------------------- one fit


class Bench:
    """Fits heads in one process, on one thread; it reads from the caches what its units need and keeps the last two."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self._held: dict[tuple[tuple[int, ...], int], npt.NDArray[np.float16]] = {}
        self._adapted: dict[tuple[str, Layer, int], adapt.Adaptation] = {}

    def features(self, layer: Layer, views: int) -> npt.NDArray[np.float16]:
        """[row, 1 + views, dim]: of every row of the study; in dim lie hidden states, and in each its statistics, one
        after the other."""
        hidden = tuple(self.plan.hidden(layer))
        if (hidden, views) not in self._held:
            if len(self._held) > 1:
                self._held.pop(next(iter(self._held)))
            self._held[hidden, views] = np.concatenate(
                [self._read(source, hidden, views) for source in self.plan.sources.values()]
            )
        return self._held[hidden, views]

    def _read(self, source: Source, hidden: Sequence[int], views: int) -> npt.NDArray[np.float16]:
        stats = [STATS.index(name) for name in self.plan.study.stats]
        held = min(views, source.identity.views)  # a corpus that is only tested may have fewer
        with Cache.open(source.path) as cache:
            read = cache.features(source.rows, views=range(held + 1), layers=hidden, stats=stats)
        read = read.reshape(len(read), held + 1, -1)
        block = np.full((len(read), 1 + views, read.shape[2]), np.nan, np.float16)
        block[:, : held + 1] = read
        return block

    def inputs(self, unit: Unit, rows: Rows, views: int = 0) -> npt.NDArray[np.float32]:
        """[row, 1 + views, dim]: what the unit's head is given, normalised and aligned as the study asks."""
        x, study = self.features(unit.layer, views), self.plan.study
        if (study.normalise, study.align) == ("none", "none"):
            return x[rows].astype(np.float32)
        corpora, speakers = (self.plan.columns[name] for name in ("corpus", "speaker"))
        if (place := (unit.arm, unit.layer, unit.fold)) not in self._adapted:
            self._adapted = {key: each for key, each in self._adapted.items() if key[:2] == place[:2]}
            train = self.plan.training(unit.fold, unit.arm)
            self._adapted[place] = adapt.fit(
                x[:, 0], train, corpora, speakers, normalise=study.normalise, align=study.align, own=study.corpus
            )
        groups = adapt.groups_of(study.normalise, corpora, speakers)[rows]
        return self._adapted[place].apply(x[rows], groups, corpora[rows])

    def fit(self, unit: Unit, params: Mapping[str, Any], validate: Rows | None) -> heads.Estimator:
        """A head trained on the unit's rows; `validate` only says when to stop.

        Raises FitError that names the unit where the estimator fails.
        """
        card, y, train = self.plan.heads[unit.head], self.plan.y, self.plan.training(unit.fold, unit.arm)
        layers = {"layers": len(self.plan.hidden(unit.layer))} if unit.layer == "weighted" else {}
        card = card.model_copy(update={"fixed": {**card.fixed, **params, **layers}})
        views = self.plan.views if card.views != "clean" else 0
        estimator = heads.build(card, unit.seed)
        x = self.inputs(unit, train, views)
        held = None if validate is None else (self.inputs(unit, validate, views)[:, 0], y[validate])
        try:
            with one_thread():
                estimator.fit(x[:, 0], y[train], views=x[:, 1:] if views else None, validation=held)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise FitError(f"{unit.folder()}, seed {unit.seed}, fold {unit.fold + 1}: {said}") from error
        return estimator

    def probabilities(self, estimator: heads.Estimator, unit: Unit, rows: Rows) -> npt.NDArray[np.float64]:
        """[row, class] in CLASSES' order, of the clean view; 0 for a class that training had not."""
        hidden = tuple(self.plan.hidden(unit.layer))
        views = next((v for held, v in self._held if held == hidden), 0)  # what is held has the clean view too
        x = np.ascontiguousarray(self.inputs(unit, rows, views)[:, 0])
        result = np.zeros((len(rows), len(CLASSES)))
        with one_thread():
            result[:, [CLASSES.index(name) for name in estimator.classes_]] = estimator.predict_proba(x)
        return result

    def judge(self, unit: Unit, params: Mapping[str, Any]) -> float:
        """Validation UA of one fit; no test row is read for it."""
        fold = self.plan.folds[unit.fold]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            estimator = self.fit(unit, params, fold.validate)
        p = self.probabilities(estimator, unit, fold.validate)
        return metrics.ua(self.plan.y[fold.validate], np.array(CLASSES)[p.argmax(1)])

    def train(self, unit: Unit, params: Mapping[str, Any]) -> None:
        """Fit, predict validation and test rows, keep the head (first seed), and then the unit's part of the record."""
        fold, train = self.plan.folds[unit.fold], self.plan.training(unit.fold, unit.arm)
        begin = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", category=UserWarning)  # scikit-learn's ConvergenceWarning is one
            estimator = self.fit(unit, params, fold.validate)
        best = getattr(estimator, "best_epoch_", getattr(estimator, "best_iteration_", None))
        facts = {
            "best": None if best is None else int(best),
            "seconds": round(time.perf_counter() - begin, 3),
            "rows": len(train),
            "saw": self.saw(train, fold.validate),
            "warnings": sorted(
                {str(w.message).strip().split("\n")[0] for w in caught if issubclass(w.category, UserWarning)}
            ),
        }
        if unit.layer == "weighted":
            facts["layer_weights"] = getattr(estimator, "layer_weights_")  # noqa: B009 (no head but the MLP has them)
        if unit.seed == 0:
            kind = self.plan.heads[unit.head].kind
            heads.save(kind, estimator, head_folder(self.plan.folder, unit, fold.name))
        rows = np.concatenate([fold.validate, fold.test])
        columns = self._record(unit, rows, self.probabilities(estimator, unit, rows))
        _write_part(part_of(self.plan, unit), columns, facts)

    def saw(self, train: Rows, validate: Rows) -> dict[str, str]:
        """What the record says of the rows that a fit was given; the audit holds it against the plan."""
        return {"train": self.plan.seen(train), "validate": self.plan.seen(validate)}

    def searched(self, triple: Triple) -> dict[str, dict[str, str]]:
        """The same of a search, by fold: what `judge` is given."""
        units = [Unit(*triple, 0, fold) for fold in range(len(self.plan.folds))]
        sides = [(self.plan.training(unit.fold, unit.arm), self.plan.folds[unit.fold]) for unit in units]
        return {fold.name: self.saw(train, fold.validate) for train, fold in sides}

    def _record(self, unit: Unit, rows: Rows, p: npt.NDArray[np.float64]) -> dict[str, Any]:
        """The unit's rows of predictions.parquet, by column."""
        fold, n = self.plan.folds[unit.fold], len(rows)
        columns = {name: values[rows] for name, values in self.plan.columns.items()}
        return {
            "utterance": columns["ids"],
            **{name: columns[name] for name in ("corpus", "speaker", "session")},
            "arm": [unit.arm] * n,
            "layer": [str(unit.layer)] * n,
            "head": [unit.head] * n,
            "seed": [unit.seed] * n,
            "fold": [fold.name] * n,
            "split": ["validate"] * len(fold.validate) + ["test"] * len(fold.test),
            "label": self.plan.y[rows],
            **dict(zip(report.PROBABILITIES, p.T, strict=True)),
        }


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order whatever the machine is doing, and no threads in each other's way."""
    # threadpoolctl: BLAS and OpenMP of whatever is loaded
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def head_folder(folder: Path, unit: Unit, fold: str) -> Path:
    """Where the head of a fold lies: heads/<arm>/layer-<N>/<head>/fold-<fold>/."""
    return folder / "heads" / unit.folder() / f"fold-{quote(fold, safe=SAFE)}"


def part_of(planned: Plan, unit: Unit) -> Path:
    return planned.folder / "parts" / unit.folder() / f"seed-{unit.seed}-fold-{unit.fold + 1}.parquet"


def _write_part(path: Path, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    draft = path.with_suffix(".draft")
    pq.write_table(table.replace_schema_metadata({"facts": json.dumps(facts)}), draft)
    draft.replace(path)


# ---------------------------------------------------------------- many fits


class Task(NamedTuple):
    """A call of a method of Bench, and where its result goes."""

    result: Future[Any]
    what: str
    given: tuple[Any, ...]


class Crew:
    """Does a bench's work here and, once enough of it lies ahead, in worker processes too; the same bits either way.

    total: about how many fits there will be; with the mean time of those so far it says what lies ahead.
    """

    def __init__(self, planned: Plan, jobs: int, total: int) -> None:
        self.plan, self.jobs, self.total, self.done = planned, jobs, total, 0
        self.bench = Bench(planned)
        self._began = math.nan
        # One for each worker: it hands over a task when the one before is done.
        self._threads = ThreadPoolExecutor(max(1, jobs - 1))
        self._pool: ProcessPoolExecutor | None = None
        self._starting = Lock()

    def map(self, what: str, tasks: Iterable[tuple[Any, ...]]) -> Generator[Any, None, None]:
        """The results of a method of Bench, in the order of tasks. Closing it takes back what has not begun."""
        every = [Task(Future(), what, task) for task in tasks]
        waiting = deque(every)
        for _ in range(min(self.jobs, len(every)) - 1):
            self._threads.submit(self._hand_over, waiting)
        try:
            for task in every:
                while waiting and not task.result.done():
                    self._next(waiting, self._here)
                yield task.result.result()
        except BrokenProcessPool:
            raise EmbedkitError(
                "a worker process died (out of memory?); what is finished is kept: run it again with --jobs 1"
            ) from None
        finally:
            waiting.clear()

    def _next(self, waiting: deque[Task], do: Callable[..., Any]) -> None:
        try:
            task = waiting.popleft()
        except IndexError:
            return  # another one was faster
        try:
            task.result.set_result(do(task.what, *task.given))
        except Exception as error:  # raised where the result is asked for
            task.result.set_exception(error)
        self.done += 1

    def _here(self, what: str, *given: Any) -> Any:
        if math.isnan(self._began):
            self._began = time.perf_counter()
        return getattr(self.bench, what)(*given)

    def _hand_over(self, waiting: deque[Task]) -> None:
        while waiting and not self._pays():
            time.sleep(0.1)
        while waiting:
            self._next(waiting, lambda *task: self._workers().submit(_work, *task).result())

    def _pays(self) -> bool:
        """Whether there are workers, or it pays to start them now; the fit that is going on counts as ended."""
        each = (time.perf_counter() - self._began) / (self.done + 1)  # NaN before the first
        return self._pool is not None or (self.total - self.done) * each > POOL_PAYS

    def _workers(self) -> ProcessPoolExecutor:
        with self._starting:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.jobs - 1, context, _enlist, (self.plan,))
            return self._pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._threads.shutdown()


_bench: Bench  # a worker's own


def _enlist(planned: Plan) -> None:
    """Begin as a worker: get ready, and end when the process that asked ends, however it does."""
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers at once and silently
    _bench = Bench(planned)
    Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _work(what: str, *task: Any) -> Any:
    return getattr(_bench, what)(*task)


# ---------------------------------------------------------------- the verb


def run(
    workspace: Workspace,
    card: str | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    partial: bool = False,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Do a study, or what is left of it; see `ask` for card, flags and settings.

    Returns {study, results: [{arm, head, layer, encoder, wa, ua, macro_f1, f1}], table, ...}, the same as
    results.json. Raises StudyError, CardError or CacheError before anything trains.
    """
    return carry_out(plan(workspace, *ask(workspace, card, flags, settings, name), partial=partial), jobs)


def carry_out(planned: Plan, jobs: int | None = None) -> dict[str, Any]:
    """Do what is planned; see `run`."""
    leaks = audit.audit(planned)
    audit.refuse(planned, leaks)
    with alone(planned.folder):
        _begin(planned)
    searches = _searches(planned)
    # A search can be shared: other processes that run the same study join in, then wait for the one that trains.
    with Crew(planned, jobs or cores(), _ahead(planned, searches)) as crew:
        for triple in (t for t in searches if t not in _kept(planned)):
            _search(planned, crew, triple)
        with alone(planned.folder, wait=bool(searches)):
            found = {triple: _found(planned, crew, triple) for triple in searches}
            _train(planned, crew, found)
            leaks += _audit_record(planned)
            _write_audit(planned, leaks, [*audit.checks(planned), "fit", "search"])
            audit.refuse(planned, leaks)
            doc = _document(planned, leaks)
            report.write(planned.folder, doc)
    return {**doc, "table": report.table(doc)}


@contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """One process at a time in a study's folder; the lock falls with the process. Without waiting: StudyError."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise StudyError(f"{folder}: another process is working on this study; wait, or give another --name") from None


def _begin(planned: Plan) -> None:
    """Write the settings in effect, or find that they are those that the study was begun with."""
    path, now = planned.folder / "study.json", planned.settings()
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        if different := differences(before, now):
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise StudyError(
                f"{planned.folder} was begun with other settings ({'; '.join(different[:3])}{more});"
                " give another --name, or remove that folder"
            )
        return
    study = planned.study.model_copy(update={"encoder": planned.place})
    data = {
        "embedkit": __version__,
        "card": study.model_dump(mode="json", exclude={"search": {"storage"}}),
        "caches": {corpus: {"file": str(s.path), "digest": s.identity.digest} for corpus, s in planned.sources.items()},
        "settings": now,
    }
    report.replace(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two sets of settings differ.

    >>> differences({"folds": {"k": 8}, "seeds": 1}, {"folds": {"k": 5}, "seeds": 1})
    ['folds.k: 8 there, 5 here']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            line
            for name in dict.fromkeys((*before, *now))
            for line in differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if before == now else [f"{key}: {_short(before)} there, {_short(now)} here"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _searches(planned: Plan) -> list[Triple]:
    """What is to be searched, unless all is trained already."""
    trained = (planned.folder / "predictions.parquet").is_file()
    wanted = planned.study.search.trials and not trained
    return [triple for triple in planned.triples() if wanted and planned.heads[triple[2]].search]


def _todo(planned: Plan) -> list[Unit]:
    trained = (planned.folder / "predictions.parquet").is_file()
    return [unit for unit in planned.units() if not trained and not part_of(planned, unit).is_file()]


def _ahead(planned: Plan, searches: Sequence[Triple]) -> int:
    """About how many fits there will be."""
    return len(_todo(planned)) + len(searches) * planned.study.search.trials * len(planned.folds)


def _train(planned: Plan, crew: Crew, found: Mapping[Triple, Mapping[str, Any]]) -> None:
    """Every unit that is not there yet; at the end all parts are one record. found: what searches have found."""
    units, todo = planned.units(), _todo(planned)
    if (planned.folder / "predictions.parquet").is_file():
        return
    with _progress(len(units), "training", len(units) - len(todo)) as bar:
        # What takes longest comes first, so that none is left alone with a long one at the end; but layer by layer, so
        # that features are read once.
        todo.sort(key=lambda unit: (planned.layers.index(unit.layer), -len(planned.training(unit.fold, unit.arm))))
        for _ in crew.map("train", ((unit, found.get(unit[:3], {})) for unit in todo)):
            bar.update()
    _gather(planned, units)


@contextmanager
def _progress(total: int, what: str, done: int = 0) -> Iterator[Any]:
    """A progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=what, file=sys.stderr, disable=None) as bar:
        yield bar


def _search(planned: Plan, crew: Crew, triple: Triple) -> Found:
    """Search one (arm, layer, head), or what is left of it; its trials lie in the storage."""
    from embedkit.search import search

    def scores(params: dict[str, Any]) -> Generator[float, None, None]:
        return crew.map("judge", ((Unit(*triple, 0, fold), params) for fold in range(len(planned.folds))))

    space, settings = planned.heads[triple[2]].search, planned.study.search
    storage = settings.storage or f"sqlite:///{planned.folder / 'search.db'}"
    with _progress(settings.trials, f"search {triple[2]}") as bar:
        name = f"{planned.study.name}/{'/'.join(map(str, triple))}/{_fingerprint(planned)}"
        return search(name, space, scores, settings, storage, told=lambda done: bar.update(done - bar.n))


def _found(planned: Plan, crew: Crew, triple: Triple) -> dict[str, Any]:
    """The parameters of one (arm, layer, head): from search.json, or put there."""
    kept, (arm, layer, head) = _kept(planned), triple
    if triple in kept:
        return dict(kept[triple]["params"])
    found = _search(planned, crew, triple)  # all is done: this only reads the storage
    entry = {"arm": arm, "layer": layer, "head": head, "params": found.params, "validation_ua": found.value}
    entry |= {"trials": found.trials, "pruned": found.pruned, "failed": found.failed}
    entry["saw"] = crew.bench.searched(triple)
    text = json.dumps([*kept.values(), entry], indent=2, ensure_ascii=False) + "\n"
    report.replace(planned.folder / "search.json", text)
    return found.params


def _kept(planned: Plan) -> dict[Triple, dict[str, Any]]:
    """search.json, by (arm, layer, head)."""
    return {(e["arm"], e["layer"], e["head"]): e for e in _read_list(planned.folder / "search.json")}


def _fingerprint(planned: Plan) -> str:
    """So that a storage that outlives the study's folder never mixes in trials of other settings or other rows."""
    return hashlib.sha256(json.dumps(planned.settings(), sort_keys=True).encode()).hexdigest()[:12]


def _read_list(path: Path) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return data


def _gather(planned: Plan, units: Sequence[Unit]) -> None:
    """All parts as units.json and predictions.parquet, which says that the study is done; then the parts can go.
    Without units (a study that only counts) there is nothing to gather."""
    if not units:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(part_of(planned, unit)) for unit in units]
    facts = [
        {**dict(zip(unit._fields, unit, strict=True)), "fold": planned.folds[unit.fold].name}
        | json.loads(table.schema.metadata[b"facts"])
        for unit, table in zip(units, tables, strict=True)
    ]
    report.replace(planned.folder / "units.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    record = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    draft = planned.folder / "predictions.draft"
    pq.write_table(record, draft)
    draft.replace(planned.folder / "predictions.parquet")
    shutil.rmtree(planned.folder / "parts")


def _audit_record(planned: Plan) -> list[audit.Finding]:
    folder = planned.folder
    return audit.audit_record(planned, _read_list(folder / "units.json"), _read_list(folder / "search.json"))


def _write_audit(planned: Plan, leaks: Sequence[audit.Finding], checked: Sequence[str]) -> dict[str, Any]:
    doc = audit.document(planned, leaks, checked)
    report.replace(planned.folder / "audit.json", json.dumps(doc, indent=2, ensure_ascii=False) + "\n")
    return doc


def record(planned: Plan) -> pd.DataFrame:
    """A finished study's predictions; see the head of this module."""
    import pandas as pd

    return pd.read_parquet(planned.folder / "predictions.parquet")


def _document(planned: Plan, leaks: Sequence[audit.Finding]) -> dict[str, Any]:
    """What results.json holds."""
    study, identity = planned.study, planned.identity
    predictions = record(planned) if planned.units() else None
    results = [] if predictions is None else report.results(predictions, identity.encoder)
    for result in results:
        result |= _layer_weights(planned.folder, result)
    doc: dict[str, Any] = {
        "study": study.name,
        "summary": study.summary,
        "results": results,
        "corpus": study.corpus,
        "test": study.test,
        "recipe": study.recipe,
        "encoder": identity.encoder,
        "revision": identity.revision,
        "weights": "random" if identity.random else "pretrained",
        "folds": {"kind": study.folds.kind, "names": [fold.name for fold in planned.folds]},
        "arms": {arm.name: dict(arm.mix) for arm in study.arms},
        "seeds": study.seeds,
        "views": planned.views,
        "rows": {
            corpus: {
                "used": len(s.rows),
                "classes": {name: int(np.sum(s.y == name)) for name in CLASSES},
                "skipped": s.skipped,
                "missing": s.missing,
                "left_out": dict(s.left_out),
            }
            for corpus, s in planned.sources.items()
        },
        "class_weights": _class_weights(planned),
        "comparisons": [] if predictions is None else report.compared(predictions, results, study.compare),
        "search": _read_list(planned.folder / "search.json"),
        "audit": [asdict(leak) for leak in leaks],
        "notes": [*(leak.text for leak in leaks), *planned.notes, *_warned(planned.folder)],
    }
    paper = study.paper.model_dump(mode="json") if study.paper else None
    return {**doc, "paper": report.beside(doc, paper)}


def _class_weights(planned: Plan) -> dict[str, dict[str, float]]:
    """arm -> the mean over folds of the weights that balance the classes of its training rows."""
    found = {}
    for arm in planned.arms:
        folds = [metrics.balanced_weights(planned.y[planned.training(i, arm)]) for i in range(len(planned.folds))]
        found[arm] = {c: float(np.mean([f[c] for f in folds])) for c in CLASSES if all(c in f for f in folds)}
    return found


def _layer_weights(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a learned sum of layers weighs: mean and standard deviation (ddof 0) over folds and seeds."""
    if result["layer"] != "weighted":
        return {}
    key = ("arm", "layer", "head")
    fits = [u["layer_weights"] for u in _read_list(folder / "units.json") if all(u[k] == result[k] for k in key)]
    return {"layer_weights": {"mean": np.mean(fits, 0).tolist(), "sd": np.std(fits, 0).tolist()}}


def _warned(folder: Path) -> Iterator[str]:
    """What the estimators complained about, counted over fits."""
    units = _read_list(folder / "units.json")
    fits = Counter(unit["head"] for unit in units)
    for (head, text), count in Counter((u["head"], text) for u in units for text in u["warnings"]).items():
        yield f"{head}: {count} of {fits[head]} fits warn: {text}"


# ---------------------------------------------------------------- a finished study, for those who use its heads


class Choice(NamedTuple):
    """One result of a study."""

    arm: str
    head: str
    layer: Layer


@dataclass(frozen=True)
class Finished:
    """A study that has its results. `plan` has its cards, caches (`plan.sources[corpus].path`), rows and folds."""

    plan: Plan
    results: list[dict[str, Any]]

    def predictions(self) -> pd.DataFrame:
        """The record; see the head of this module."""
        return record(self.plan)

    def test_rows(self, choice: Choice) -> pd.DataFrame:
        """The record's test rows of the heads that are kept (first seed)."""
        rows = self.predictions()
        chosen = (rows["arm"] == choice.arm) & (rows["layer"] == str(choice.layer)) & (rows["head"] == choice.head)
        return rows[chosen & (rows["seed"] == 0) & (rows["split"] == "test")].reset_index(drop=True)

    def fold_head(self, choice: Choice, fold: str) -> heads.Estimator:
        """The head of a fold (by its name in the record), as it was when it predicted its test rows."""
        unit = Unit(choice.arm, choice.layer, choice.head, 0, 0)
        return heads.load(self.plan.heads[choice.head].kind, head_folder(self.plan.folder, unit, fold))

    def params(self, choice: Choice) -> dict[str, Any]:
        """What a search has found for it, {} without one."""
        for entry in _read_list(self.plan.folder / "search.json"):
            if (entry["arm"], entry["head"], entry["layer"]) == choice:
                return dict(entry["params"])
        return {}

    def refit(self, choice: Choice) -> heads.Estimator:
        """The head for use: trained on every row of the study's corpus and of the arm's mix, with the first seed.

        Where a fold's training stopped early, this one ends at the median of the folds' best epochs (iterations).
        Kept in heads/<arm>/layer-<N>/<head>/final/ and loaded from there the next time.
        """
        unit = Unit(choice.arm, choice.layer, choice.head, 0, WHOLE)
        folder, card = self.plan.folder / "heads" / unit.folder() / "final", self.plan.heads[choice.head]
        if self.plan.study.normalise != "none":
            raise StudyError(
                f'study {self.plan.study.name}: an exported file cannot normalise = "{self.plan.study.normalise}";'
                ' run and export a study with normalise = "none"'
            )
        if folder.is_dir():
            return heads.load(card.kind, folder)
        params = self.params(choice)
        best = [
            u["best"]
            for u in _read_list(self.plan.folder / "units.json")
            if (u["arm"], u["head"], u["layer"], u["seed"]) == (*choice, 0) and u["best"] is not None
        ]
        if best and heads.rounds(card):
            params[heads.rounds(card)] = max(1, round(float(np.median(best))))
        estimator = Bench(self.plan).fit(unit, params, None)
        draft = folder.with_name("final.draft")
        shutil.rmtree(draft, ignore_errors=True)
        heads.save(card.kind, estimator, draft)
        draft.replace(folder)
        return estimator


def open_study(workspace: Workspace, name: str | None = None) -> Finished:
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
    return Finished(_recorded(workspace, name), results)


def _recorded(workspace: Workspace, name: str) -> Plan:
    """The plan of a study that was begun. Raises StudyError where its caches are not what they were."""
    folder = workspace.study(name)
    data = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    own_heads = {n: cards.build(cards.Head, {**c, "name": n}) for n, c in data["settings"]["heads"].items()}
    planned = plan(workspace, cards.build(cards.Study, {**data["card"], "name": name}), own_heads, partial=True)
    now = json.loads(json.dumps(planned.settings()))
    if different := differences(data["settings"], now):
        raise StudyError(f"{folder}: what it was made of has changed since ({different[0]}); run a study anew")
    return planned


def audited(workspace: Workspace, name: str) -> dict[str, Any]:
    """What leaks in a study, by its name: with its fits, searches and scalers where it is finished; or in a card.

    Returns {study, passed, checked, findings: [{check, verdict, count, examples, folds, arms, text}]}. Raises
    StudyError or CardError where there is none, and where its caches are missing or have changed.
    """
    begun = {path.parent.name for path in workspace.studies.glob("*/study.json")}
    if name not in begun:
        known = {*begun, *workspace.card_names("studies")}
        if ".toml" not in name and name.partition(".")[0] not in known:  # of "leak-ladder.script" the card is known
            raise StudyError(f"no study or card '{name}' in {workspace.studies}{did_you_mean(name, known)}")
        planned = plan(workspace, *ask(workspace, name), partial=True)
        return audit.document(planned, audit.audit(planned), audit.checks(planned))
    planned = _recorded(workspace, name)
    leaks, checked = audit.audit(planned), audit.checks(planned)
    if (planned.folder / "predictions.parquet").is_file():
        leaks += [*_audit_record(planned), *audit.audit_scalers(planned, _scalers(planned))]
        checked = list(dict.fromkeys([*checked, *audit.RECORD]))
    return _write_audit(planned, leaks, checked)


def _scalers(planned: Plan) -> Iterator[audit.Scaler]:
    """Each kept head that shows its scaler, and the mean of the rows that the plan gives it. LightGBM has none, and
    that of a head stored as ONNX lies in its graph."""
    bench = Bench(planned)
    for unit in planned.units():
        folder = head_folder(planned.folder, unit, planned.folds[unit.fold].name)
        if unit.seed or not folder.is_dir():
            continue
        head: Any = heads.load(planned.heads[unit.head].kind, folder)
        if not getattr(head, "standardize", hasattr(head, "mean_")):
            continue
        train = planned.training(unit.fold, unit.arm)
        rows = bench.inputs(unit, train)[:, 0].astype(np.float64)
        fold = planned.folds[unit.fold].name
        yield audit.Scaler({**unit._asdict(), "fold": fold}, head.mean_, head.scale_, rows.mean(0))


def best(results: Sequence[Mapping[str, Any]], **wanted: Any) -> Choice:
    """The (arm, head, layer) with the best mean validation UA; wanted: arm, head or layer that it must have.

    Raises StudyError where none has.
    """
    wanted = {key: value for key, value in wanted.items() if value is not None}
    left = [r for r in results if all(r[key] == value for key, value in wanted.items())]
    if not left:
        key, value = next((k, v) for k, v in wanted.items() if all(r[k] != v for r in results) or len(wanted) > 1)
        known = {str(r[key]) for r in results}
        raise StudyError(f"the study has no result with {key} '{value}'{did_you_mean(str(value), known)}")
    winner = max(left, key=lambda r: r["validation_ua"]["mean"])
    return Choice(winner["arm"], winner["head"], winner["layer"])
