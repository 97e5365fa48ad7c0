"""What makes exporting quick: one thread for torch (the modules are tiny), and none of its tracing kept as a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("torch.__trace").disabled = True
    yield
    torch.set_num_threads(before)
