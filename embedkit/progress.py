"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(
    total: int, what: str | None = None, *, unit: str = "it", done: int = 0, show: bool | None = None
) -> tqdm[NoReturn]:
    """A bar that `update(n)` moves; use it in a `with` statement.

    total, done: how many there are, and how many were done before. what: the text before the bar. show: None: where
    stderr is a terminal.
    """
    # tqdm: a bar with rate and time left, which prints nothing outside a terminal.
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=what, unit=unit, disable=None if show is None else not show)
