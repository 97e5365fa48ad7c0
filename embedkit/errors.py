"""The errors that a user can meet: each is one line that says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EmbedkitError(Exception):
    """Something failed; the command ends with exit code 1."""

    exit_code = 1


class UserError(EmbedkitError):
    """The user's mistake (a wrong name, a missing folder, a card that does not fit); exit code 2."""

    exit_code = 2


class CardError(UserError):
    """A card, or a flag that overrides one, has an unknown key or an impossible value."""


class CorpusError(UserError):
    """A corpus that is missing, empty or of a layout that its reader does not know."""


class CacheError(UserError):
    """A cache file that is missing, damaged, incomplete, in use, or made with other settings."""


class EncoderError(UserError):
    """An encoder that cannot be found or downloaded, or that embedkit cannot read safely."""


class StudyError(UserError):
    """A study that cannot be run as asked."""


class ModelError(UserError):
    """An exported file that embedkit did not write, or that is damaged."""


class FitError(EmbedkitError):
    """A head that cannot be fitted to its rows with its parameters. A search counts the trial as failed and goes on."""


class ClipError(EmbedkitError):
    """One recording that cannot be used. A pass over a corpus skips it with this reason and goes on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'hidden'?` for the nearest known word, else `; known: a, b`.

    >>> did_you_mean("hiden", ["hidden", "gamma"])
    "; did you mean 'hidden'?"
    >>> did_you_mean("xyz", ["hidden", "gamma"])
    '; known: gamma, hidden'
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known) or 'none'}"
