"""Costs: what is timed takes turns, and memory is that of a program of its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import runtime_fixtures

from embedkit.errors import EmbedkitError
from embedkit.export import assemble as files
from embedkit.export import cost

MB = 1_000_000


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return runtime_fixtures.build(tmp_path_factory.mktemp("cost") / "loud.onnx").read_bytes()


def test_everything_takes_its_turn_on_the_same_clip(loud: bytes) -> None:
    """Two models and a function; the function only beside one thread, and once more than is counted, to warm up."""
    heard: list[np.ndarray] = []
    models = {"float": loud, "file": loud}
    found = cost.measure_latency(models, {"torch": heard.append}, seconds=0.5, turns=3)
    assert {count: set(each) for count, each in found.items()} == {
        "1": {"float", "file", "torch"},
        "2": {"float", "file"},
    }
    assert len(heard) == 1 + 3 and all(len(wave) == 8_000 and wave.std() > 0.05 for wave in heard)
    assert all(taken >= 0 for each in found.values() for taken in each.values())


def test_peak_memory_is_that_of_a_fresh_program_and_grows_with_the_file(loud: bytes) -> None:
    """40 million bytes of weights more cost at least so many more, whatever this process has taken before."""
    taken = np.ones(400 * MB, np.uint8)
    model = onnx.load_from_string(loud)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(40 * MB, np.uint8), "ballast"))
    heavy = files.serialize_model(model, runtime_fixtures.metadata())
    small, large = cost.measure_peak_memory(loud, seconds=0.5), cost.measure_peak_memory(heavy, seconds=0.5)
    assert taken.all() and 10 < small < 300
    assert large - small > 40


def test_a_file_that_does_not_run_alone_is_an_error_of_one_line() -> None:
    with pytest.raises(EmbedkitError, match="does not run in a fresh interpreter") as raised:
        cost.measure_peak_memory(b"not a model")
    assert "\n" not in str(raised.value)
