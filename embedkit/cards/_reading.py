"""Cards as TOML: read, overridden by dotted keys, and checked; errors name the nearest right key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeGuard, TypeVar, get_args

# pydantic: checks types and ranges of a card and shows the offending value.
from pydantic import BaseModel, ConfigDict, ValidationError

from embedkit.errors import CardError, did_you_mean
from embedkit.workspace import read_toml


class Card(BaseModel):
    """What every card and every table of one is: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyCard = TypeVar("AnyCard", bound=Card)


def read(kind: type[AnyCard], path: Path, overrides: Mapping[str, object] | None = None) -> AnyCard:
    """Read a card from its file, whose stem becomes its name; overrides by dotted key (`{"folds.k": 4}`) win.

    Raises CardError that names the file, the key and, for an unknown key, the nearest known one.
    """
    return build(kind, {**read_toml(path), "name": path.stem}, overrides, where=str(path))


def build(
    kind: type[AnyCard],
    data: Mapping[str, object],
    overrides: Mapping[str, object] | None = None,
    where: str = "settings",
) -> AnyCard:
    """Make a card from a dictionary; see `read`. where: what an error names in place of the file."""
    merged = _deep_copy(data)
    for key, value in (overrides or {}).items():
        _set_value(merged, key.split("."), value, key)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise CardError(f"{where}: {_describe_first_problem(kind, error)}") from None


def parse_settings(settings: Iterable[str]) -> dict[str, object]:
    """`--set KEY=VALUE` flags as {key: value}. A value is read as TOML where it is TOML, else as text.

    Raises CardError for a flag without a key or without "=".

    >>> parse_settings(["folds.k=4", "heads.mlp.activation=relu"])
    {'folds.k': 4, 'heads.mlp.activation': 'relu'}
    """
    result: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise CardError(f"--set {setting}: expected KEY=VALUE, e.g. folds.k=4")
        try:
            result[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            result[key] = value
    return result


def _deep_copy(data: Mapping[str, object]) -> dict[str, object]:
    return {k: _deep_copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def _set_value(data: dict[str, object], parts: list[str], value: object, key: str) -> None:
    for part in parts[:-1]:
        table = data.setdefault(part, {})
        if not isinstance(table, dict):
            raise CardError(f"--set {key}: '{part}' is a value, not a table")
        data = table
    data[parts[-1]] = value


def _describe_first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    """The first of pydantic's complaints in one line, with the nearest key where one is unknown."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        word = str(first["loc"][-1])
        return f"unknown key '{key}'{did_you_mean(word, _list_keys(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"'{key}' is missing"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key} = {first['input']!r}: {message}" if key else message


def _list_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that a card has at a dotted place."""
    model: object = kind
    for part in path:
        if _is_model(model) and part in model.model_fields:
            model = model.model_fields[part].annotation
            model = next((a for a in get_args(model) if _is_model(a)), model)
    return list(model.model_fields) if _is_model(model) else []


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
