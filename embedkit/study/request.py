"""A study as it is asked for: its card, what flags and settings change in it, and its heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from embedkit import cards
from embedkit.errors import CardError, StudyError, did_you_mean
from embedkit.workspace import Workspace, read_toml

LAYER_FORMS = ("last", "all", "concat", "weighted")  # what a layer may be, beside a number


class StudyFlags(TypedDict, total=False):
    """The flags of `embedkit study`. What they leave out, the card or its defaults say.

    mix: corpora that join every training set, each with its share ("crema-d=0.5"). folds: their kind. heads: names of
    cards. layer: a number as text, "last", "all", "concat" or "weighted".
    """

    corpus: str
    recipe: str
    encoder: str
    mix: Sequence[str]
    test: str
    folds: str
    heads: Sequence[str]
    layer: str
    seeds: int
    trials: int
    storage: str


def resolve_study(
    workspace: Workspace,
    card: str | None = None,
    flags: StudyFlags | None = None,
    settings: Mapping[str, object] | None = None,
    name: str | None = None,
) -> tuple[cards.Study, dict[str, cards.Head]]:
    """A study and its heads, from a card of studies/ (None: the defaults), flags, and settings by dotted key.

    card: a name, a path, or a name with one of its parts ("leak-ladder.speaker"). settings: {"folds.k": 4,
    "heads.logistic.C": 0.05}; the `fixed.` of a head's parameter may be left out. The study's name is `name`, else the
    card's, else "<corpus>[+mix]-<folds>".

    Raises CardError for what is unknown (with the nearest known word) or out of range.
    """
    path, part, data = _read_card(workspace, card)
    study_settings, head_settings = _split_settings(settings or {})
    study = cards.build(
        cards.Study, data, {**_translate_flags(flags or {}), **study_settings}, where=str(path or "study")
    )
    if study.parts and not part:
        raise StudyError(f"study '{card}' has parts; name one of them: {', '.join(f'{card}.{p}' for p in study.parts)}")
    if study.test == study.corpus:
        raise StudyError(f"test: {study.test} is the study's own corpus; its folds test it, so leave --test out")
    study = study.model_copy(update={"arms": _name_arms(study)})
    if name and part:
        name = f"{name}.{part}"
    name = name or study.name or f"{study.arms[-1].name}-{study.folds.kind}"
    if not name.strip(".") or any(c in name for c in "/\\\0"):
        raise StudyError(f"--name {name!r}: a study's name is the name of its folder in studies/; leave out / and \\")
    return study.model_copy(update={"name": name, "parts": {}}), _read_head_cards(workspace, study.heads, head_settings)


def list_parts(workspace: Workspace, card: str | None) -> list[str]:
    """The names of a card's parts, in order; [] for a study without parts, or for one part of a study."""
    _, part, data = _read_card(workspace, card)
    return [] if part else list(_read_parts(data))


def _read_card(workspace: Workspace, card: str | None) -> tuple[Path | None, str, dict[str, object]]:
    """The path of a card, which of its parts is meant ("": none), and its content, with what the part changes."""
    if not card:
        return None, "", {}
    base, part = _split_card_name(workspace, card)
    path = workspace.card("studies", base)
    data = read_toml(path)
    if not part:
        return path, "", {**data, "name": path.stem}
    parts = _read_parts(data)
    changes = parts.get(part)
    if not isinstance(changes, dict):
        raise CardError(f"{path}: no part '{part}'{did_you_mean(part, parts)}")
    return path, part, {**_merge_tables(data, changes), "name": f"{path.stem}.{part}"}


def _read_parts(data: Mapping[str, object]) -> dict[str, object]:
    """The table `parts` of a card; {} where there is none (anything else than a table is an error of the card)."""
    parts = data.get("parts")
    return parts if isinstance(parts, dict) else {}


def _split_card_name(workspace: Workspace, card: str) -> tuple[str, str]:
    """("leak-ladder", "speaker") of "leak-ladder.speaker", ("a/b.toml", "c") of "a/b.toml.c"; "" for the whole card."""
    names = workspace.list_card_names("studies")
    base, dot, part = card.rpartition(".toml.")
    if dot:
        return f"{base}.toml", part
    base, _, part = card.partition(".")
    return (base, part) if part and base in names and card not in names and not card.endswith(".toml") else (card, "")


def _merge_tables(data: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """A card with what one of its parts changes: tables are merged key by key, other values are replaced."""
    merged = dict(data)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge_tables(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _translate_flags(flags: StudyFlags) -> dict[str, object]:
    """Flags by the dotted keys of a study's card."""
    keys = {"folds": "folds.kind", "trials": "search.trials", "storage": "search.storage"}
    result: dict[str, object] = {
        keys.get(k, k): v for k, v in flags.items() if v not in (None, []) and k not in ("mix", "layer")
    }
    if mix := flags.get("mix"):
        result["arms"] = [{"mix": dict(_parse_mix(text) for text in mix)}]
    if layer := flags.get("layer"):
        if layer not in LAYER_FORMS and not layer.isdecimal():
            raise CardError(f"--layer {layer}: expected a number (hidden_states[N]), {', '.join(LAYER_FORMS)}")
        result["layers"] = layer if layer in ("all", "last") else [int(layer) if layer.isdecimal() else layer]
    return result


def _parse_mix(text: str) -> tuple[str, float]:
    """ "crema-d=0.25" as ("crema-d", 0.25); without a fraction it is 1."""
    corpus, _, share = text.partition("=")
    try:
        return corpus, float(share or 1)
    except ValueError:
        raise CardError(f"--mix {text}: expected NAME=FRACTION, e.g. crema-d=0.25") from None


def _name_arms(study: cards.Study) -> list[cards.Arm]:
    """The arms, each with a name; without any, one arm with the corpus alone."""
    arms = []
    for arm in study.arms or [cards.Arm()]:
        parts = [study.corpus, *(c if share == 1 else f"{c}={share:g}" for c, share in arm.mix.items())]
        arms.append(arm.model_copy(update={"name": arm.name or "+".join(parts)}))
        for corpus in arm.mix:
            if corpus in (study.corpus, study.test):
                raise StudyError(f"arm {arms[-1].name}: {corpus} cannot be mixed into training and be tested too")
    _check_unique([arm.name for arm in arms], "arms")
    return arms


def _split_settings(settings: Mapping[str, object]) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
    """Split settings by dotted key into those of the study and, by head, those of its heads."""
    study_settings: dict[str, object] = {}
    head_settings: dict[str, dict[str, object]] = {}
    for key, value in settings.items():
        first, _, rest = key.partition(".")
        if first != "heads" or not rest:
            study_settings[key] = value
            continue
        head, _, key_of_head = rest.rpartition(".") if rest.endswith(".toml") else rest.partition(".")
        if not key_of_head:
            raise CardError(f"--set {key}: expected heads.NAME.PARAMETER, e.g. heads.logistic.C=0.05")
        known = key_of_head.split(".")[0] in cards.Head.model_fields
        head_settings.setdefault(head, {})[key_of_head if known else f"fixed.{key_of_head}"] = value
    return study_settings, head_settings


def _read_head_cards(
    workspace: Workspace, names: Sequence[str], overrides: Mapping[str, Mapping[str, object]]
) -> dict[str, cards.Head]:
    paths = {path.stem: path for path in (workspace.card("heads", name) for name in names)}
    if len(paths) < len(names):
        _check_unique([Path(name).stem for name in names], "heads")
    for head in overrides:
        if head not in paths:
            raise CardError(f"--set heads.{head}: no head of this study{did_you_mean(head, paths)}")
    return {head: cards.read(cards.Head, path, overrides.get(head)) for head, path in paths.items()}


def _check_unique(names: Sequence[str], what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StudyError(f"{what}: '{twice[0]}' is there {names.count(twice[0])} times; each has a name of its own")
