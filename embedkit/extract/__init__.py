"""The one pass: corpus -> sound -> views -> encoder -> cache. What is there already is not done again.

On a CPU worker processes encode one clip at a time with one thread each, so features are the same bit by bit whatever
the jobs, the order or the interruption. On a GPU the workers prepare the sound, and one process encodes batches.
This process alone writes the file; a kill costs the rows in flight.
"""

from __future__ import annotations

from embedkit.extract.clip import Clip, ClipEncoder, ClipLoader, Task
from embedkit.extract.encode import MIN_CLIPS_PER_WORKER, encode_in_batches
from embedkit.extract.plan import CacheState, ExtractPlan, plan_pass
from embedkit.extract.run import extract_corpus

__all__ = [
    "MIN_CLIPS_PER_WORKER",
    "CacheState",
    "Clip",
    "ClipEncoder",
    "ClipLoader",
    "ExtractPlan",
    "Task",
    "encode_in_batches",
    "extract_corpus",
    "plan_pass",
]
