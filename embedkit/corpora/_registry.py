"""Finding readers: each module of this folder is a corpus of that name."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import cast

from embedkit.corpora._base import Reader, Utterance
from embedkit.errors import CorpusError, did_you_mean


def list_corpora() -> list[str]:
    """Every corpus that has a module, as the command line spells it ("crema-d")."""
    modules = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def find_reader(name: str, root: str | Path | None = None) -> Reader:
    """The reader of a corpus. An unknown name is that of a manifest where root is a .csv file.

    Raises CorpusError with the nearest known name.
    """
    if name not in list_corpora():
        if root is None or Path(root).suffix.lower() != ".csv":
            raise CorpusError(f"unknown corpus '{name}'{did_you_mean(name, list_corpora())}")
        name = "manifest"
    return cast(Reader, importlib.import_module(f"embedkit.corpora.{name.replace('-', '_')}"))


def load(name: str, root: str | Path) -> list[Utterance]:
    """Every labelled utterance of the corpus at root, with speakers as "<corpus>:<id>".

    Raises CorpusError where root is missing, has nothing that the reader knows, or has two utterances of one id.
    """
    root = Path(root)
    rows = [replace(u, speaker=f"{name}:{u.speaker}") for u in _find_reader_at(name, root).read(root)]
    if not rows:
        raise CorpusError(f"{root}: no labelled utterance of {name} found")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise CorpusError(f"{root}: utterance '{row.id}' is there twice")
        seen.add(row.id)
    return rows


def folder(name: str, root: str | Path) -> Path:
    """The folder that `Utterance.file` is relative to: that of a manifest, else root or the folder of the corpus in it.

    Raises CorpusError as `load` does.
    """
    root = Path(root)
    return _find_reader_at(name, root).folder(root)


def _find_reader_at(name: str, root: Path) -> Reader:
    corpus_reader = find_reader(name, root)
    if not root.exists():
        raise CorpusError(
            f"{root}: no such file or folder; where does {name} lie? (--root, or [corpora] in embedkit.toml)"
        )
    return corpus_reader
