"""An utterance's sound: the one place that turns it into samples."""

from __future__ import annotations

from pathlib import Path

from embedkit import audio
from embedkit.audio import Wave
from embedkit.corpora._base import Utterance
from embedkit.errors import ClipError, UserError
from embedkit.workspace import resolve_inside


def read_sound(folder: Path, utterance: Utterance) -> Wave:
    """Its samples as decoded: float32 [samples], 16 kHz mono. folder: what its `file` is relative to.

    Raises ClipError where they cannot be had: see `audio.read`; and where `file` leads out of the folder.
    """
    try:
        path = resolve_inside(folder, utterance.file)
    except UserError as error:
        raise ClipError(str(error)) from None
    return audio.read(path, utterance.start, utterance.end)
