"""Neutral bias: does a file that hears pauses call more of what it hears neutral?

The paper proposes voice activity detection and windows for long recordings and measures neither. Here they are: long
recordings are composed of a corpus's own clips, several of one speaker and one class with silence or noise before,
between and after them, and each recording is judged in four ways:

- `vad`: what `embedkit predict` does: speech found, joined and cut into windows of 8 s;
- `windows`: what `predict --no-vad` does: everything cut into windows of 8 s, silent ones left out;
- `whole`: the recording as one input, of which the first 8 s count: what a client does that has read no manual;
- `clips`: the clips one by one, averaged by their seconds: what is lost by composing is what the others lack of this.

The bias is the share of recordings that are called neutral minus the share that are.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit import audio, corpora, stats
from embedkit.audio import RATE, Wave
from embedkit.cards import CLASSES
from embedkit.errors import ClipError, CorpusError, StudyError, UserError
from embedkit.runtime import Predictor, speech
from embedkit.workspace import Workspace, inside

if TYPE_CHECKING:
    from embedkit.corpora import Utterance
    from embedkit.heads import Estimator

WAYS = ("vad", "windows", "whole", "clips")
NEUTRAL = CLASSES.index("neutral")
NO_ANSWER = len(CLASSES)  # the column of recordings in which a way heard nothing that it could judge


@dataclass(frozen=True)
class Composition:
    """How recordings are composed. Raises UserError for what cannot be meant.

    clips: in each recording, at least (one of a speaker who has fewer holds them all); gap: the shortest and the
    longest pause (s); noise: of the noisy half of the pauses, white, against the clips' own level (dB, root mean
    squares); the other half is digital silence. seed: of the order, the lengths, which half, and the noise.
    """

    clips: int = 4
    gap: tuple[float, float] = (1.0, 6.0)
    noise: float = -30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or not 0 <= self.gap[0] <= self.gap[1] < np.inf or not -np.inf < self.noise <= 0:
            raise UserError(
                f"{self.clips} clips, pauses of {self.gap[0]:g} to {self.gap[1]:g} s, noise at {self.noise:g} dB:"
                " expected at least 1 clip, 0 <= shortest <= longest, and noise at 0 dB or below"
            )

    def compose(self, clips: Sequence[Wave], name: str) -> Wave:
        """float32 [samples]: pause, clip, pause, clip, ..., pause. The same name gives the same pauses."""
        rng = self.drawn(name)
        level = float(np.sqrt(np.mean(np.concatenate(clips).astype(np.float64) ** 2))) * 10 ** (self.noise / 20)
        parts = [self._pause(rng, level)]
        for clip in clips:
            parts += [clip, self._pause(rng, level)]
        return np.concatenate(parts)

    def drawn(self, name: str) -> np.random.Generator:
        """Random numbers of one recording, whatever was composed before it."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def _pause(self, rng: np.random.Generator, level: float) -> Wave:
        samples = round(rng.uniform(*self.gap) * RATE)
        noisy = rng.random() < 0.5
        return (rng.normal(0, level, samples) if noisy else np.zeros(samples)).astype(np.float32)


@dataclass(frozen=True)
class Judges:
    """Who judges which utterance: the file itself, or each study fold's head what that fold was tested on."""

    own: Predictor
    fold_of: Mapping[str, str] = field(default_factory=dict)  # utterance to fold
    of_fold: Mapping[str, Predictor] = field(default_factory=dict)  # empty: the file itself judges all

    def fold(self, utterance: Utterance) -> str | None:
        """The fold that an utterance belongs to, "" without folds, None for one that no fold was tested on."""
        return self.fold_of.get(utterance.id) if self.of_fold else ""

    def __getitem__(self, fold: str) -> Predictor:
        return self.of_fold[fold] if self.of_fold else self.own


@dataclass(frozen=True)
class Group:
    """The utterances of one recording: one speaker, one class, one fold."""

    speaker: str
    truth: str
    fold: str
    number: int
    rows: Sequence[Utterance]

    @property
    def name(self) -> str:
        return f"{self.speaker} {self.truth} {self.fold} {self.number}"


def evaluate(
    workspace: Workspace, predictor: Predictor, corpus: str, root: Path, held_out: bool = False, **composition: Any
) -> dict[str, Any]:
    """`measure` of a corpus at root, with the label map of its reader; composition: the fields of `Composition`.

    held_out: by the heads of the study's folds (see `fold_heads`). Returns what `measure` does, and {model, corpus,
    heads, notes}.
    """
    judges = fold_heads(predictor, workspace) if held_out else Judges(predictor)
    rows, labels = corpora.load(corpus, root), corpora.reader(corpus, root).LABELS
    notes = []
    if not held_out and has_heard(predictor, workspace, corpus):
        notes.append(f"the file's head was trained on clips of {corpus}: too good to be true; see --held-out")
    return {
        "model": str(predictor.path),
        "corpus": corpus,
        "heads": "of the study's folds, each on what it was tested on" if held_out else "the file's own",
        "notes": notes,
        **measure(judges, rows, corpora.folder(corpus, root), labels, Composition(**composition)),
    }


def measure(
    judges: Judges,
    utterances: Sequence[Utterance],
    folder: Path,
    label_map: Mapping[str, Sequence[str]],
    composition: Composition,
) -> dict[str, Any]:
    """Compose, judge and count; folder: where the utterances' files lie.

    Returns {recordings, seconds (mean), speakers, composition, truth: {class: count}, skipped: [{id, reason}],
    left_out: {label: count}, ways: {way: scores}, comparisons: [{score, way, against, ...}]}: see `_scores` and
    `_comparisons`. Intervals are 95 %, by speaker. Raises CorpusError where nothing can be composed.
    """
    classes = corpora.classes_of(utterances, label_map)
    skipped: list[dict[str, str]] = []
    heard: list[Group] = []
    seconds: list[float] = []
    said: list[dict[str, int]] = []
    for group in _progress(list(_groups(utterances, classes, judges, composition))):
        if waves := list(_waves(group, folder, skipped)):
            wave = composition.compose(waves, group.name)
            heard.append(group)
            seconds.append(len(wave) / RATE)
            said.append(answers(judges[group.fold], wave, waves))
    if not heard:
        unjudged = sum(bool(name) and judges.fold(u) is None for u, name in zip(utterances, classes, strict=True))
        raise CorpusError(
            f"{folder}: nothing to compose of {len(utterances)} utterances: {classes.count('')} have no class,"
            f" {len(skipped)} cannot be used, {unjudged} were tested by no fold of the study"
        )
    tables = {way: _tables(heard, [each[way] for each in said]) for way in WAYS}
    return {
        "recordings": len(heard),
        "seconds": float(np.mean(seconds)),
        "speakers": len({group.speaker for group in heard}),
        "composition": asdict(composition),
        "truth": {name: sum(group.truth == name for group in heard) for name in CLASSES},
        "skipped": skipped,
        "left_out": dict(Counter(u.label for u, name in zip(utterances, classes, strict=True) if not name)),
        "ways": {way: _scores(tables[way]) for way in WAYS},
        "comparisons": _comparisons(tables),
    }


def answers(predictor: Predictor, recording: Wave, clips: Sequence[Wave]) -> dict[str, int]:
    """The class (its index) that each way gives a recording; 4 where it heard nothing that it could judge."""
    return {
        "vad": _streamed(predictor, recording, vad=True),
        "windows": _streamed(predictor, recording, vad=False),
        "whole": _likeliest(predictor, [recording[: speech.WINDOW]]),
        "clips": _likeliest(predictor, clips),
    }


def _streamed(predictor: Predictor, recording: Wave, vad: bool) -> int:
    stream = predictor.stream(vad)
    try:
        stream.feed(recording)
        stream.end()
    except ClipError:
        return NO_ANSWER
    return CLASSES.index(stream.label) if stream.label else NO_ANSWER


def _likeliest(predictor: Predictor, waves: Sequence[Wave]) -> int:
    total = np.zeros(len(CLASSES))
    for wave in waves:
        try:
            total += predictor.probabilities(wave) * len(wave)
        except ClipError:
            continue
    return int(total.argmax()) if total.any() else NO_ANSWER


# ---------------------------------------------------------------- which clips make a recording


def _groups(
    utterances: Sequence[Utterance], classes: Sequence[str], judges: Judges, composition: Composition
) -> Iterator[Group]:
    """Each utterance that has a class and a judge in one recording, in an order drawn for each speaker and class."""
    found: dict[tuple[str, str, str], list[Utterance]] = defaultdict(list)
    for utterance, truth in zip(utterances, classes, strict=True):
        fold = judges.fold(utterance)
        if truth and fold is not None:
            found[utterance.speaker, truth, fold].append(utterance)
    for key, rows in sorted(found.items()):
        order = composition.drawn(" ".join(key)).permutation(len(rows))
        parts = np.array_split(order, max(1, len(rows) // composition.clips))
        for number, part in enumerate(parts):
            yield Group(*key, number, [rows[i] for i in part])


def _waves(group: Group, folder: Path, skipped: list[dict[str, str]]) -> Iterator[Wave]:
    """The group's clips that can be used; the others join `skipped` with their reasons."""
    for utterance in group.rows:
        try:
            wave = audio.read(inside(folder, utterance.file), utterance.start, utterance.end)
            audio.refuse_silence(wave)
        except ClipError as error:
            skipped.append({"id": utterance.id, "reason": str(error)})
        else:
            yield wave


def _progress(groups: list[Group]) -> Iterable[Group]:
    from tqdm import tqdm

    return tqdm(groups, desc="recordings", disable=None)


# ---------------------------------------------------------------- figures


def _tables(groups: Sequence[Group], said: Sequence[int]) -> stats.Array:
    """One confusion matrix a speaker, [speaker, truth, said]; the last of the 5 columns is `NO_ANSWER`."""
    names, speaker = np.unique([group.speaker for group in groups], return_inverse=True)
    counts = np.zeros((len(names), len(CLASSES), len(CLASSES) + 1))
    for who, group, answer in zip(speaker, groups, said, strict=True):
        counts[who, CLASSES.index(group.truth), answer] += 1
    return counts


def called_neutral(t: stats.Array) -> stats.Array:
    """Share of recordings called neutral, of confusion matrices [..., truth, said]; NaN for an empty one."""
    total = t.sum((-1, -2))
    return np.asarray(np.divide(t[..., NEUTRAL].sum(-1), total, out=np.full(np.shape(total), np.nan), where=total > 0))


def _scores(tables: stats.Array) -> dict[str, Any]:
    """{wa, ua, recall, precision: {class}, neutral: {said, truth, bias}, no_answer, confusion} with intervals.

    A recording without an answer counts as a wrong one. bias: the share called neutral minus its share in the truth,
    which is fixed by the composition; so the interval is that of the share, moved.
    """

    def interval(score: stats.Score, of: stats.Array = tables) -> dict[str, Any]:
        return asdict(stats.interval(of, score))

    total, truth = tables.sum(0), float(tables[:, NEUTRAL].sum() / tables.sum())
    called = interval(called_neutral)
    ends = ("estimate", "low", "high")
    return {
        "wa": interval(stats.wa),
        "ua": interval(stats.ua),
        "recall": {c: interval(stats.of_class(stats.recalls, c)) for c in CLASSES},
        "precision": {c: interval(stats.of_class(stats.precisions, c), tables[..., :NO_ANSWER]) for c in CLASSES},
        "neutral": {
            "said": called,
            "truth": truth,
            "bias": {end: None if called[end] is None else called[end] - truth for end in ends},
        },
        "no_answer": int(total[:, NO_ANSWER].sum()),
        "confusion": total[:, :NO_ANSWER].astype(int).tolist(),
    }


def _comparisons(tables: Mapping[str, stats.Array]) -> list[dict[str, Any]]:
    """`vad` against each other way, in UA and in the share called neutral: paired over speakers, Holm by score."""
    made: list[dict[str, Any]] = []
    for name, score in (("ua", stats.ua), ("neutral said", called_neutral)):
        tests = [stats.permutation(tables["vad"], tables[way], score) for way in WAYS[1:]]
        for way, test, p in zip(WAYS[1:], tests, stats.holm([test.p for test in tests]), strict=True):
            verdict = stats.wording(test, "vad", way, float(p))
            made.append(
                {"score": name, "way": "vad", "against": way, **asdict(test), "p": float(p), "verdict": verdict}
            )
    return made


# ---------------------------------------------------------------- heads that have not heard the clips


def fold_heads(predictor: Predictor, workspace: Workspace) -> Judges:
    """The file's encoder with the heads of the folds of the study that it is of, each on what its fold was tested on.

    Raises StudyError where the workspace has no such study, or one of another encoder.
    """
    from embedkit import study as studies

    meta = {key.removeprefix("embedkit."): value for key, value in predictor.meta.items()}
    if not meta.get("study"):
        raise StudyError(f"{predictor.path}: it does not say of which study it is; leave out --held-out")
    finished = studies.open_study(workspace, meta["study"])
    if finished.plan.identity.weights_digest != meta.get("weights_digest"):
        raise StudyError(f"study {meta['study']} is of another encoder than {predictor.path}; export it again")
    layer = next((r["layer"] for r in finished.results if str(r["layer"]) == meta["layer"]), meta["layer"])
    choice = studies.Choice(meta["arm"], meta["head"], layer)
    rows = finished.test_rows(choice)
    if rows.empty:
        raise StudyError(f"study {meta['study']} has no {' / '.join(map(str, choice))}; export it again")
    temperature = float(meta.get("temperature", 1))
    of_fold = {
        fold: predictor.with_head(_head(finished.fold_head(choice, fold), temperature))
        for fold in rows["fold"].unique()
    }
    return Judges(predictor, dict(zip(rows["utterance"], rows["fold"], strict=True)), of_fold)


def _head(estimator: Estimator, temperature: float) -> Callable[[Wave], Wave]:
    from embedkit import calibration

    columns = [CLASSES.index(name) for name in estimator.classes_]

    def probabilities(embedding: Wave) -> Wave:
        p = np.zeros(len(CLASSES), np.float32)
        p[columns] = calibration.apply(estimator.predict_proba(embedding[None])[0], temperature)
        return p

    return probabilities


def has_heard(predictor: Predictor, workspace: Workspace, corpus: str) -> bool:
    """Was the file's head trained on this corpus? By the study that it is of; False where that is not at hand."""
    name = predictor.meta.get("embedkit.study", "")
    path = workspace.studies / name / "study.json"
    if not name or not path.is_file():
        return False
    card = json.loads(path.read_text(encoding="utf-8"))["card"]
    mixes = [arm["mix"] for arm in card["arms"] if arm["name"] == predictor.meta.get("embedkit.arm")]
    return corpus == card["corpus"] or any(corpus in mix for mix in mixes)


# ---------------------------------------------------------------- for people


def text(r: Mapping[str, Any]) -> str:
    """`evaluate --long` as a table."""
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
        lines.append(f"{way:9}" + "".join(f"{_figure(f):<24}" for f in figures) + str(s["no_answer"]))
    lines += ["", f"{'':9}" + "".join(f"{c:<24}" for c in CLASSES) + "recall above precision"]
    for way, s in r["ways"].items():
        lines += [
            f"{way if kind == 'recall' else '':9}" + "".join(f"{_figure(s[kind][c]):<24}" for c in CLASSES)
            for kind in ("recall", "precision")
        ]
    neutral = next(iter(r["ways"].values()))["neutral"]["truth"]
    lines += ["", f"neutral in truth: {neutral:.3f}; intervals are 95 %, by speaker; p by permutation, Holm's"]
    lines += [
        f"  {x['score']}: vad - {x['against']} = {x['difference']:+.3f}: {x['verdict']}" for x in r["comparisons"]
    ]
    lines += [f"  skipped {s['id']}: {s['reason']}" for s in r["skipped"]]
    return "\n".join([*lines, *(f"note: {note}" for note in r["notes"])])


def _figure(f: Mapping[str, Any]) -> str:
    if f["estimate"] is None:
        return "-"
    if f["low"] is None:
        return f"{f['estimate']:.3f}"
    return f"{f['estimate']:.3f} ({f['low']:.3f}, {f['high']:.3f})"
