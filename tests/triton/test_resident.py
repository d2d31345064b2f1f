"""Runs without a copy through the host; on a machine without a GPU, of tensors that lie in the CPU's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tldeploy.triton.backends.onnxruntime.resident import Resident, all_resident, on_host, run_resident

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Handed:
    """A tensor as Triton's Python backend hands it over."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.value = ort.OrtValue.ortvalue_from_numpy(array)

    def to_dlpack(self) -> Any:
        return self.value._ortvalue.to_dlpack()


def session() -> ort.InferenceSession:
    """out = a + b, and twice that."""
    value = helper.make_tensor_value_info
    tensors = [value(name, TensorProto.FLOAT, ["rows", 3]) for name in ("a", "b", "out", "twice")]
    nodes = [helper.make_node("Add", ["a", "b"], ["out"]), helper.make_node("Add", ["out", "out"], ["twice"])]
    graph = helper.make_graph(nodes, "sum", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_what_lies_there_is_run_there_and_given_back_from_there() -> None:
    feed = {"a": Resident.of(Handed(ROWS)), "b": Resident.of(Handed(10 * ROWS))}
    assert all_resident(feed)
    twice, out = run_resident(session(), feed, ["twice", "out"], "cpu", 0, ort.RunOptions())
    assert (twice.shape, out.ndim, len(out)) == ((2, 3), 2, 2)
    np.testing.assert_array_equal(on_host(out), 11 * ROWS)
    np.testing.assert_array_equal(on_host(twice), 22 * ROWS)
    again = ort.OrtValue.from_dlpack(twice.to_dlpack())
    np.testing.assert_array_equal(again.numpy(), 22 * ROWS)


def test_what_lies_on_the_host_goes_the_usual_way() -> None:
    feed = {"a": Resident.of(Handed(ROWS)), "b": ROWS}
    assert not all_resident(feed)
    assert on_host(feed["b"]) is ROWS
