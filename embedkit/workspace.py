"""A workspace, where cards and results lie: a folder that holds cache/, heads/ and studies/."""

from __future__ import annotations

import os
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.errors import CardError, CorpusError, UserError, did_you_mean

ROOMS = ("cache", "heads", "studies")


@dataclass(frozen=True)
class Workspace:
    """A folder with cards and the results that were made with them."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Workspace:
        """The workspace whose folder is `start`; None: the nearest one upward from the current folder.

        Raises UserError where there is none.
        """
        if start is not None:
            if not all((start / room).is_dir() for room in ROOMS):
                raise UserError(
                    f"{start}: not a workspace (it holds no {'/ '.join(ROOMS)}/); try: embedkit init {start}"
                )
            return cls(start.resolve())
        here = Path.cwd()
        for folder in (here, *here.parents):
            if all((folder / room).is_dir() for room in ROOMS):
                return cls(folder)
        raise UserError(f"no workspace (a folder with {'/ '.join(ROOMS)}/) at or above {here}; try: embedkit init DIR")

    @classmethod
    def at(cls, place: Workspace | Path | str | None) -> Workspace:
        """A workspace by itself, by its folder, or (None) the nearest one upward from the current folder.

        Raises UserError where there is none.
        """
        return place if isinstance(place, Workspace) else cls.find(None if place is None else Path(place))

    @property
    def cache(self) -> Path:
        """Recipes, and caches of features."""
        return self.root / "cache"

    @property
    def studies(self) -> Path:
        """Cards of studies, and a folder for each study."""
        return self.root / "studies"

    def card(self, room: str, name: str) -> Path:
        """The file of a card of a room ("cache", "heads", "studies"). name: a bare name, or a path to a .toml file.

        Raises CardError, with the nearest name, where there is no such card.
        """
        if name.endswith(".toml"):
            path = Path(name)
            if not path.is_file():
                raise CardError(f"{name}: no such card")
            return path
        path = resolve_inside(self.root / room, f"{name}.toml")
        if not path.is_file():
            raise CardError(f"no card '{name}' in {room}/{did_you_mean(name, self.list_card_names(room))}")
        return path

    def list_card_names(self, room: str) -> list[str]:
        """The names of the cards of a room ("cache", "heads", "studies"), sorted."""
        return sorted(p.stem for p in (self.root / room).glob("*.toml"))

    def cache_file(self, recipe: str, encoder_slug: str, corpus: str) -> Path:
        """cache/<recipe>/<encoder>/<corpus>.h5, whether or not it exists. Raises UserError for names that lead out."""
        return resolve_inside(self.cache, f"{recipe}/{encoder_slug}/{corpus}.h5")

    def study(self, name: str) -> Path:
        """studies/<name>/, whether or not it exists. Raises UserError for a name that leads out."""
        return resolve_inside(self.studies, name)

    def settings(self) -> dict[str, dict[str, str]]:
        """embedkit.toml, {"corpora": {name: place}}; empty where there is none.

        Raises CardError where it cannot be read, has an unknown key or anything but a text as a place.
        """
        path = self.root / "embedkit.toml"
        if not path.is_file():
            return {}
        settings = read_toml(path)
        for key, table in settings.items():
            if key != "corpora":
                raise CardError(f"{path}: unknown key '{key}'{did_you_mean(key, ['corpora'])}")
            if not isinstance(table, dict) or not all(isinstance(place, str) for place in table.values()):
                raise CardError(f'{path}: corpora: expected a table of lines NAME = "DIR"')
        return settings

    def resolve_corpus_root(self, name: str, override: Path | str | None = None) -> Path:
        """The place of a corpus: `override`, else [corpora] in embedkit.toml, else the variable EMBEDKIT_<NAME>.

        Raises CorpusError, which names all three, where none of them says it.
        """
        variable = "EMBEDKIT_" + name.upper().replace("-", "_")
        place = override or self.settings().get("corpora", {}).get(name) or os.environ.get(variable)
        if not place:
            raise CorpusError(
                f'where does {name} lie? give --root DIR, or put {name} = "DIR" under [corpora] in'
                f" {self.root / 'embedkit.toml'}, or set {variable}"
            )
        path = Path(place).expanduser()
        return path if path.is_absolute() or override else self.root / path


def resolve_inside(root: Path, relative: str) -> Path:
    """root / relative.

    Raises UserError for an absolute path, and for a path that leads out of root, by `..` or by a link.
    """
    path = root / relative
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"'{relative}' leads out of {root}; give a path inside it")
    return path


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises CardError, with the place of the problem, where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CardError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path}: not TOML: {error}") from None


def shipped_cards() -> Path:
    """The folder whose cache/, heads/ and studies/ hold the cards that come with embedkit."""
    package = Path(__file__).parent
    return package / "_cards" if (package / "_cards").is_dir() else package.parent


def init_workspace(folder: Path | str) -> Workspace:
    """Make a workspace in `folder`: its three rooms with the cards of embedkit. Cards that are there are kept."""
    folder = Path(folder)
    for room in ROOMS:
        (folder / room).mkdir(parents=True, exist_ok=True)
        for card in sorted((shipped_cards() / room).glob("*.toml")):
            target = folder / room / card.name
            if not target.exists():
                shutil.copyfile(card, target)
    return Workspace(folder.resolve())
