"""Costs: what is timed takes turns, and memory is that of a program of its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedkit.errors import EmbedkitError
from embedkit.export import cost, files

MB = 1_000_000


def loud(ballast: int = 0) -> bytes:
    """A file of ours by its interface: the mean square four times. ballast: bytes of weights that nothing needs."""
    shape = ["batch", 4]
    nodes = [
        helper.make_node("ReduceSumSquare", ["signal", "axis"], ["power"], "Power", keepdims=1),
        helper.make_node("Expand", ["power", "four"], ["logits"], "Expand"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "Softmax"),
        helper.make_node("Gather", ["ballast", "axis"], ["one"], "Gather", axis=0),
        helper.make_node("Add", ["logits", "one"], ["embedding"], "Add"),
        helper.make_node("Identity", ["lengths"], ["ignored"], "Identity"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("signal", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in files.OUTPUTS],
        [
            numpy_helper.from_array(np.array([1]), "axis"),
            numpy_helper.from_array(np.array([1, 4]), "four"),
            numpy_helper.from_array(np.zeros(max(2, ballast // 4), np.float32), "ballast"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    labels = '["anger", "happiness", "neutral", "sadness"]'
    said = {"embedkit.format": "1", "embedkit.rate": "16000", "embedkit.labels": labels}
    onnx.checker.check_model(model)
    return files.finished(model, said)


def test_everything_takes_its_turn_on_the_same_clip() -> None:
    """Two models and a function; the function only beside one thread, and once more than is counted, to warm up."""
    heard: list[np.ndarray] = []
    models = {"float": loud(), "file": loud()}
    found = cost.latency(models, {"torch": heard.append}, seconds=0.5, turns=3)
    assert {count: set(each) for count, each in found.items()} == {
        "1": {"float", "file", "torch"},
        "2": {"float", "file"},
    }
    assert len(heard) == 1 + 3 and all(len(wave) == 8_000 and wave.std() > 0.05 for wave in heard)
    assert all(taken >= 0 for each in found.values() for taken in each.values())


def test_peak_memory_is_that_of_a_fresh_program_and_grows_with_the_file() -> None:
    """40 million bytes of weights more cost at least so many more, whatever this process has taken before."""
    taken = np.ones(400 * MB, np.uint8)
    small, large = cost.peak_memory(loud(), seconds=0.5), cost.peak_memory(loud(40 * MB), seconds=0.5)
    assert taken.all() and 10 < small < 300
    assert large - small > 40


def test_a_file_that_does_not_run_alone_is_an_error_of_one_line() -> None:
    with pytest.raises(EmbedkitError, match="does not run in a fresh interpreter") as raised:
        cost.peak_memory(b"not a model")
    assert "\n" not in str(raised.value)
