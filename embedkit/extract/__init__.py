"""The one pass: corpus -> sound -> views -> encoder -> cache. What is there already is not done again.

On a CPU worker processes encode one clip at a time with one thread each, so features are the same bit by bit whatever
the jobs, the order or the interruption. On a GPU the workers prepare the sound, and one process encodes batches.
This process alone writes the file; a kill costs the rows in flight.
"""

from __future__ import annotations

from embedkit.extract.clip import Clip, Encode, Listen, Task
from embedkit.extract.encode import CLIPS_A_WORKER, on_gpu
from embedkit.extract.plan import ExtractPlan, Held, plan_pass
from embedkit.extract.run import extract_corpus

__all__ = [
    "CLIPS_A_WORKER",
    "Clip",
    "Encode",
    "ExtractPlan",
    "Held",
    "Listen",
    "Task",
    "extract_corpus",
    "on_gpu",
    "plan_pass",
]
