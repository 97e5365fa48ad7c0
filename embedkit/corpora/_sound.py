"""The sound of an utterance: the only place where it is read."""

from __future__ import annotations

from pathlib import Path

from embedkit import audio
from embedkit.audio import Wave
from embedkit.corpora._base import Utterance
from embedkit.errors import ClipError, UserError
from embedkit.workspace import resolve_inside


def read_sound(folder: Path, utterance: Utterance) -> Wave:
    """The samples of an utterance: float32 [samples], 16 kHz mono, -1 to 1. folder: what its `file` is relative to.

    Raises ClipError where they cannot be read (see `audio.read`), and where `file` leads out of the folder.
    """
    try:
        path = resolve_inside(folder, utterance.file)
    except UserError as error:
        raise ClipError(str(error)) from None
    return audio.read(path, utterance.start, utterance.end)
