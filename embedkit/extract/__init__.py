"""Extraction: corpus -> sound -> views -> encoder -> cache, in one pass. Rows that are done are not encoded again.

On a CPU each worker process encodes one clip at a time with one thread, so features are the same bit by bit whatever
the number of workers, the order and the interruptions. On a GPU the workers prepare the sound, and this process encodes
it in batches. Only this process writes the file; a kill costs no more than the rows that were being encoded.

plan.py    which rows a pass will encode
clip.py    one clip: its views, prepared and encoded
encode.py  the clips of a pass, encoded in workers or on a GPU
run.py     the pass
"""

from __future__ import annotations

from embedkit.extract.clip import Clip, ClipEncoder, ClipLoader, Task
from embedkit.extract.encode import MIN_CLIPS_PER_WORKER, encode_in_batches
from embedkit.extract.plan import CacheState, ExtractPlan, plan_pass
from embedkit.extract.run import ExtractReport, extract_corpus

__all__ = [
    "MIN_CLIPS_PER_WORKER",
    "CacheState",
    "Clip",
    "ClipEncoder",
    "ClipLoader",
    "ExtractPlan",
    "ExtractReport",
    "Task",
    "encode_in_batches",
    "extract_corpus",
    "plan_pass",
]
