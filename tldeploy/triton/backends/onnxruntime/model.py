"""Triton's `onnxruntime` backend, written in Python for a server that has no C++ one.

It serves the same model folder as the native backend, unchanged: `config.pbtxt` with `backend: "onnxruntime"`, and
`<version>/model.onnx`. A copy of this folder lies in the server home and runs in the workers' environment, which has
numpy < 2 and onnxruntime, and nothing of tldeploy. By file:

graph_session.py   the session: device, threads, optimization and memory as the native backend reads them
placement.py       which execution provider runs the nodes, in the server's metrics
graph_checks.py    the configuration held against the graph, with the native backend's wording
merging.py         which requests share a run: those of equal shapes, and where it is allowed texts of near lengths
resident.py        tensors that stay on a GPU
model.py           `execute`: the requests handed over that fit together are merged, run once, and split again

A request that fails never fails its neighbours: a run that fails is done again one request at a time, and an input that
cannot be read is answered by itself. What differs from the native backend: TYPE_BF16 is served, which that one refuses;
strings may hold NUL bytes, and must be UTF-8.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from graph_checks import check, check_paths, overridable
from graph_session import make_run_options, make_session
from merging import RUN_TOKENS, allow_ragged, groups, joined, merges_lengths
from placement import DESCRIPTION, NODES, tell
from resident import Resident, any_resident, on_host, places, run_bound

BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
decode_utf8 = np.frompyfunc(bytes.decode, 1, 1)

Feed = Mapping[str, Any]  # arrays by the name of their input; those of bfloat16 as uint16


class TritonPythonModel:
    """One instance of a graph."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        allow_ragged(auto_complete_model_config.as_dict())
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        check_paths(config, folder)
        kind, device = args["model_instance_kind"], args["model_instance_device_id"]
        self.session = make_session(folder, config, kind, device)
        check(config, self.session)
        self.gpu = int(device) if kind == "GPU" else None
        self.run_options = make_run_options(config)
        self.batched = int(config.get("max_batch_size", 0)) > 0
        self.run_tokens = RUN_TOKENS["CPU" if self.gpu is None else "GPU"] if merges_lengths(config) else None
        self.outputs = {tensor["name"]: [int(dim) for dim in tensor["dims"]] for tensor in config["output"]}
        provided = (*self.session.get_inputs(), *overridable(self.session))
        declared = {tensor["name"] for tensor in config["input"]}
        self.inputs = {tensor.name: tensor for tensor in provided if tensor.name in declared}
        kinds = {tensor.name: tensor.type for tensor in self.session.get_outputs() if tensor.name in self.outputs}
        self.places = places({name: kinds[name] for name in self.outputs}, "cpu" if self.gpu is None else "cuda")
        kinds |= {name: tensor.type for name, tensor in self.inputs.items()}
        self.bfloat16 = {name for name, kind in kinds.items() if kind == "tensor(bfloat16)"}
        family = pb_utils.MetricFamily(name=NODES, description=DESCRIPTION, kind=pb_utils.MetricFamily.GAUGE)
        labels = {"model": args["model_name"], "version": args["model_version"]}
        labels |= {"instance": args["model_instance_name"], "device": f"{kind} {device}"}
        self.told = [family, *tell(self.session, family, labels)]

    def execute(self, requests: list[Any]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        feeds: dict[int, Feed] = {}
        for index, request in enumerate(requests):
            try:
                feeds[index] = self._read(request)
            except Exception as error:  # noqa: BLE001 — whatever it is, it becomes this request's answer
                answers[index] = error
        for group in groups(feeds, self.run_tokens) if self.batched else [[index] for index in feeds]:
            for index, outputs in zip(group, self._answers([feeds[index] for index in group]), strict=True):
                answers[index] = outputs
        return [self._response(answer) for answer in answers]

    def _read(self, request: Any) -> Feed:
        """The inputs that a request gives; an optional one may be missing."""
        feed = {}
        for name, provided in self.inputs.items():
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                continue
            if not tensor.is_cpu():
                resident = Resident.of(tensor, provided.type)
                feed[name] = resident if provided.shape else on_host(resident).reshape(())
                continue
            if name in self.bfloat16:  # numpy has none, so that Triton hands it over by DLPack only
                array = words_of(ort.OrtValue.from_dlpack(tensor.to_dlpack()))
            else:
                array = tensor.as_numpy()
            if array.dtype == object:
                array = decode_utf8(array)
            # Triton has no scalars: they come with one dim, of 1.
            feed[name] = array if provided.shape else np.asarray(array).reshape(())
        return feed

    def _answers(self, feeds: list[Feed]) -> list[Any]:
        """The outputs of each request, or the exception that it met."""
        if len(feeds) == 1:
            try:
                return [self._run(feeds[0])]
            except Exception as error:  # noqa: BLE001 — onnxruntime raises many kinds; each becomes the request's answer
                return [error]
        try:
            outputs = self._run({name: joined([on_host(feed[name]) for feed in feeds]) for name in feeds[0]})
        except Exception:  # noqa: BLE001 — run alone below, each request meets its own error or none
            return [self._answers([feed])[0] for feed in feeds]
        ends = np.cumsum([rows_of(feed) for feed in feeds])[:-1]
        return list(zip(*(np.split(output, ends) for output in outputs), strict=True))

    def _run(self, feed: Feed) -> list[Any]:
        names = list(self.outputs)
        outputs: list[Any]
        if any_resident(feed) or self.bfloat16:
            values = {name: self._value(name, array) for name, array in feed.items()}
            if any_resident(feed):
                answers = run_bound(self.session, values, self.places, self.gpu or 0, self.run_options)
            else:
                answers = self.session.run_with_ort_values(names, values, self.run_options)
            outputs = [self._array(name, answer) for name, answer in zip(names, answers, strict=True)]
        else:
            outputs = self.session.run(names, feed, self.run_options)
        if self.batched:
            # An output whose rows are not the inputs' rows would be split among the wrong requests.
            for name, output in zip(names, outputs, strict=True):
                if tuple(output.shape[:1]) != (rows_of(feed),):
                    raise ValueError(f"output '{name}' has shape {output.shape} for a batch of {rows_of(feed)}")
        return outputs

    def _value(self, name: str, array: Any) -> ort.OrtValue:
        if isinstance(array, Resident):
            return array.value
        return bfloat16_value(array) if name in self.bfloat16 else ort.OrtValue.ortvalue_from_numpy(array)

    def _array(self, name: str, answer: Any) -> Any:
        """An answer on the host as numpy's; what lies on a device stays there."""
        if isinstance(answer, Resident):
            return answer
        return words_of(answer) if name in self.bfloat16 else answer.numpy()

    def _response(self, answer: Any) -> Any:
        try:
            if isinstance(answer, Exception):
                raise answer
            tensors = [self._tensor(name, array) for name, array in zip(self.outputs, answer, strict=True)]
        except Exception as error:  # noqa: BLE001 — as above
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(described(error)))
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _tensor(self, name: str, array: Any) -> Any:
        if isinstance(array, Resident) and array.ndim:
            return pb_utils.Tensor.from_dlpack(name, array.to_dlpack())
        array = on_host(array)
        shaped = array if array.ndim else array.reshape(self.outputs[name])
        if name in self.bfloat16:
            return pb_utils.Tensor.from_dlpack(name, bfloat16_value(shaped)._ortvalue.to_dlpack())
        return pb_utils.Tensor(name, shaped)


def rows_of(feed: Feed) -> int:
    return len(next(iter(feed.values())))


def words_of(value: ort.OrtValue) -> Any:
    """The elements of a bfloat16 value, copied, as uint16."""
    shape = value.shape()
    count = int(np.prod(shape))
    content = ctypes.string_at(value.data_ptr(), 2 * count) if count else b""
    return np.frombuffer(content, dtype=np.uint16).reshape(shape)


def bfloat16_value(words: Any) -> ort.OrtValue:
    """A bfloat16 value that owns its memory, of elements given as uint16."""
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(words.shape), BFLOAT16)
    ctypes.memmove(value.data_ptr(), np.ascontiguousarray(words).ctypes.data, words.nbytes)
    return value


def described(error: Exception) -> str:
    """An error in the native backend's words: `onnx runtime error 2: …`."""
    if isinstance(error, UnicodeDecodeError):
        return f"a string is not UTF-8: {error.reason} at byte {error.start}"
    found = re.match(r"\[ONNXRuntimeError\] : (\d+) : \w+ : (.*)", str(error), re.DOTALL)
    return f"onnx runtime error {found[1]}: {found[2]}" if found else f"onnx runtime error: {error}"
