"""One thread inside the block, whatever was loaded before it; as many as before afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from threadpoolctl import threadpool_info
import numpy
from embedkit.threads import one_thread

def threads():
    torch = sys.modules.get("torch")
    blas = {entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"}
    return blas, torch and torch.get_num_threads()

before = threads()
with one_thread({options}):
    inside = threads()
print(before[0] == threads()[0], inside[0], inside[1])
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [("", "{1} 1"), ("torch=False", "{1} None"), ("blas=False", "several 1")],
)
def test_in_a_fresh_process(options: str, expected: str) -> None:
    """Without a setting of the environment: torch, not loaded before, has one thread where that is asked for."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment |= {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    script = SCRIPT.replace("{options}", options)
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split(maxsplit=1) == ["True", expected.replace("several", "{2}") + "\n"]
