"""The HuBERT family: waveform in. HuBERT, DistilHuBERT, wav2vec 2.0, WavLM and data2vec-audio.

Sources: Hsu et al. 2021 (HuBERT), Chang et al. 2022 (DistilHuBERT), Baevski et al. 2020 and 2022 (wav2vec 2.0,
data2vec), Chen et al. 2022 (WavLM). They differ in training and details of the layers, which transformers knows; the
frame is the same in all: 400 samples (25 ms), one every 320 (20 ms).
"""

from __future__ import annotations

from embedkit.encoders.hubert.encoder import MODEL_TYPES, geometry, is_used, load

__all__ = ["MODEL_TYPES", "geometry", "is_used", "load"]
