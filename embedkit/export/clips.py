"""Real clips: those that certify a file, and others that a profile is calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit import cache, corpora
from embedkit.audio import Wave
from embedkit.errors import ClipError, StudyError
from embedkit.export.parts import StitchInputs
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    from embedkit.corpora import Utterance


CERTIFICATE_CLIPS = 1000  # real clips that certify a file, where there are so many
CALIBRATION_CLIPS = 24  # other clips, to which a profile fits its rounding


@dataclass(frozen=True)
class CertificateClips:
    """Clips of the corpus that a study was tested on, spread over speakers and labels."""

    read: Callable[[Utterance], Wave]
    to_certify: list[Utterance]
    to_calibrate: list[Utterance]  # others, where the corpus has enough

    def decode_calibration(self) -> list[Wave]:
        """The samples of the clips to calibrate on; clips that cannot be read are left out."""
        return list(self._decode_waves())

    def _decode_waves(self) -> Iterator[Wave]:
        for utterance in self.to_calibrate:
            try:
                yield self.read(utterance)
            except ClipError:
                continue


def select_clips(inputs: StitchInputs, workspace: Workspace, root: Path | None, count: int) -> CertificateClips:
    """Choose the clips: `count` to certify, or all there are, and others to calibrate on.

    root: where the corpus lies; None: as the workspace says. Raises StudyError where it is not there.
    """
    corpus = inputs.corpus
    place = workspace.resolve_corpus_root(corpus, root)
    if not place.exists():
        raise StudyError(f"{place}: no such file or folder; the certificate needs clips of {corpus} (--root DIR)")
    source = inputs.study.plan.sources[corpus]
    with cache.Cache.open(source.path) as file:
        utterances = file.read_utterances()
    rows = [utterances[row] for row in source.rows]
    read = partial(corpora.read_sound, corpora.folder(corpus, place))
    calibrated, certified = _split_rows(rows, count)
    return CertificateClips(read, [rows[i] for i in certified], [rows[i] for i in calibrated])


def _split_rows(rows: Sequence[Utterance], count: int) -> tuple[list[int], list[int]]:
    """Rows to calibrate on, and rows to certify: others, unless fewer than half as many as asked for are left."""
    calibration = corpora.pick_balanced_rows(rows, CALIBRATION_CLIPS)
    others = sorted(set(range(len(rows))) - set(calibration))
    if 2 * len(others) < min(count, len(rows)):
        return calibration, corpora.pick_balanced_rows(rows, count)
    return calibration, [others[i] for i in corpora.pick_balanced_rows([rows[i] for i in others], count)]
