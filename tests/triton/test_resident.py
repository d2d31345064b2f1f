"""Runs without a copy through the host; on a machine without a GPU, of tensors that lie in the CPU's memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tldeploy.triton.backends.onnxruntime.resident import Resident, any_resident, on_host, places, run_bound

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Handed:
    """A tensor as Triton's Python backend hands it over."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.value = ort.OrtValue.ortvalue_from_numpy(array)

    def to_dlpack(self) -> Any:
        return self.value.__dlpack__()


def session(*nodes: Any, kind: int = TensorProto.FLOAT) -> ort.InferenceSession:
    """Of inputs `a` and `b` and outputs `out` and `twice`, by default their sum and twice that."""
    value = helper.make_tensor_value_info
    tensors = [value(name, kind, ["rows", 3]) for name in ("a", "b", "out", "twice")]
    sums = [helper.make_node("Add", ["a", "b"], ["out"]), helper.make_node("Add", ["out", "out"], ["twice"])]
    graph = helper.make_graph(nodes or sums, "sum", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(opened: ort.InferenceSession, feed: dict[str, Any], outputs: dict[str, str]) -> list[Any]:
    return run_bound(opened, feed, outputs, 0, ort.RunOptions())


def test_what_lies_there_is_run_there_and_given_back_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = {name: Resident.of(Handed(rows), "tensor(float)") for name, rows in (("a", ROWS), ("b", 10 * ROWS))}
    assert any_resident(feed)
    bound = bindings(monkeypatch)
    twice, out = run(session(), {name: array.value for name, array in feed.items()}, {"twice": "cuda", "out": "cuda"})
    assert bound == [("twice", "cuda", 0), ("out", "cuda", 0)]
    assert (twice.shape, out.ndim, len(out)) == ((2, 3), 2, 2)
    np.testing.assert_array_equal(on_host(out), 11 * ROWS)
    np.testing.assert_array_equal(on_host(twice), 22 * ROWS)
    again = ort.OrtValue.from_dlpack(twice.to_dlpack())
    np.testing.assert_array_equal(again.numpy(), 22 * ROWS)


def test_a_request_that_has_one_input_on_the_host_is_still_run_there() -> None:
    feed = {"a": Resident.of(Handed(ROWS), "tensor(float)"), "b": 10 * ROWS}
    assert any_resident(feed)
    assert not any_resident({"b": ROWS})
    values = {"a": feed["a"].value, "b": ort.OrtValue.ortvalue_from_numpy(feed["b"])}  # type: ignore[union-attr]
    out, twice = run(session(), values, {"out": "cpu", "twice": "cpu"})
    np.testing.assert_array_equal(out.numpy(), 11 * ROWS)
    np.testing.assert_array_equal(twice.numpy(), 22 * ROWS)


def test_a_bool_stays_one_whatever_its_capsule_says() -> None:
    """Triton's say that it is one, as numpy's do, which onnxruntime refuses; onnxruntime's say that it is a byte."""
    bools = np.array([[True, False, True]])
    for handed in (Handed(bools), SimpleNamespace(to_dlpack=bools.__dlpack__)):
        found = Resident.of(handed, "tensor(bool)")
        assert found.value.data_type() == "tensor(bool)"
        assert on_host(found).tolist() == bools.tolist()
    with pytest.raises(RuntimeError, match="Unsupported code 6"):
        ort.OrtValue.from_dlpack(bools.__dlpack__())
    assert Resident.of(Handed(bools.view(np.uint8)), "tensor(uint8)").value.data_type() == "tensor(uint8)"
    nodes = [helper.make_node("And", ["a", "b"], ["out"]), helper.make_node("Or", ["a", "b"], ["twice"])]
    feed = {name: Resident.of(Handed(bools), "tensor(bool)").value for name in ("a", "b")}
    out, _ = run(session(*nodes, kind=TensorProto.BOOL), feed, {"out": "cpu", "twice": "cpu"})
    assert out.numpy().tolist() == bools.tolist()


def test_what_dlpack_cannot_carry_is_answered_from_the_host() -> None:
    kinds = {"text": "tensor(string)", "mask": "tensor(bool)", "scores": "tensor(float)", "half": "tensor(bfloat16)"}
    assert places(kinds, "cuda") == {"text": "cpu", "mask": "cpu", "scores": "cuda", "half": "cuda"}
    assert set(places(kinds, "cpu").values()) == {"cpu"}


@pytest.mark.parametrize("release", ["unused capsule", "taken over"])
def test_the_memory_lives_as_long_as_somebody_has_it(release: str) -> None:
    array = ROWS.copy()
    gone = weakref.ref(array)
    resident = Resident.of(Handed(array), "tensor(float)")
    capsule = resident.to_dlpack()
    del resident, array
    taken = ort.OrtValue.from_dlpack(capsule) if release == "taken over" else None
    if taken is not None:
        np.testing.assert_array_equal(taken.numpy(), ROWS)
    del capsule, taken
    gc.collect()
    assert gone() is None


def test_bfloat16_is_run_there_and_cannot_be_joined_on_the_host() -> None:
    value = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], TensorProto.BFLOAT16)
    with pytest.raises(RuntimeError, match="bfloat16"):
        on_host(Resident(value))


def bindings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What is bound as an output from now on, where to and with which number; all of it stays in the CPU's memory."""
    bound: list[tuple[str, str, int]] = []
    bind: Callable[..., None] = ort.IOBinding.bind_output

    def noted(binding: ort.IOBinding, name: str, device: str, number: int) -> None:
        bound.append((name, device, number))
        bind(binding, name, "cpu", 0)

    monkeypatch.setattr(ort.IOBinding, "bind_output", noted)
    return bound
