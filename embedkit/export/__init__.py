"""Stitch: encoder and head as one ONNX file, raw samples in, probabilities out, certified before it gets its name.

stitch.py    the verb
parts.py     what goes into a file
clips.py     the real clips that certify it
reference.py what it is held to, in torch and in float32
graph.py     the torch modules that become the graph
assemble.py  torch to ONNX, encoder and head into one, metadata
quantize/    the profiles
certify.py   torch against the graph, on real clips
cost.py      time and memory of one clip
modelcard.py all of that, for people
"""

from __future__ import annotations

from embedkit.export.stitch import stitch_study

__all__ = ["stitch_study"]
