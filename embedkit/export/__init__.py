"""Stitch: encoder and head as one ONNX file, raw samples in, probabilities out, certified before it gets its name.

stitch.py     the export, from a study to the written file
parts.py      what goes into a file, and what it says of itself
clips.py      the real clips that certify it
reference.py  what it is compared with, in torch and in float32
graph.py      the torch modules that become the graph
assemble.py   torch to ONNX, encoder and head into one graph, metadata
quantize/     the profiles
certify.py    torch, the float graph and the file compared on real clips
cost.py       time and memory of one clip
document.py   the certificate, and what an export returns
modelcard.py  the model card
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit._lazy import import_lazily

if TYPE_CHECKING:
    from embedkit.export.document import CertificateDocument, ExportDocument
    from embedkit.export.stitch import stitch_study
else:
    __getattr__, __dir__ = import_lazily(
        {
            "CertificateDocument": "embedkit.export.document",
            "ExportDocument": "embedkit.export.document",
            "stitch_study": "embedkit.export.stitch",
        }
    )

__all__ = ["CertificateDocument", "ExportDocument", "stitch_study"]
