"""Triton's `onnxruntime` backend, written in Python for a server that has no C++ one.

It serves the same model folder as the native backend, unchanged: `config.pbtxt` with `backend: "onnxruntime"`, and
`<version>/model.onnx`. A copy of this file lies in the server home and runs in the workers' environment, which has
numpy < 2 and onnxruntime, and nothing of tldeploy.

1. `initialize` makes the session: thread counts, graph optimization level and device as the native backend reads them
   from the configuration.
2. It holds the configuration against the graph, with the native backend's wording: count, names, types and dims.
3. `execute` merges the requests handed over whose shapes agree, runs each group once, and splits the answer. A group
   that fails is run again one by one, so that a bad request does not fail its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
# The native backend's meaning of `optimization { graph { level } }`.
OPTIMIZATION_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """One instance of a graph."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        file = config.get("default_model_filename") or "model.onnx"
        graph = Path(args["model_repository"]) / args["model_version"] / file
        self.session = make_session(graph, config, args["model_instance_kind"], args["model_instance_device_id"])
        check(config, self.session)
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.batched = int(config.get("max_batch_size", 0)) > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [[self._input(request, name) for name in self.inputs] for request in requests]
        responses: list[Any] = [None] * len(requests)
        for group in self._groups(rows):
            for index, outputs in zip(group, self._answers([rows[index] for index in group]), strict=True):
                responses[index] = self._response(outputs)
        return responses

    @staticmethod
    def _input(request: Any, name: str) -> Any:
        return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

    def _groups(self, rows: list[list[Any]]) -> Iterable[list[int]]:
        """Indexes of the requests that can share a run: equal shapes but for the batch axis."""
        groups: dict[Any, list[int]] = {}
        for index, tensors in enumerate(rows):
            key = tuple(tensor.shape[1:] for tensor in tensors) if self.batched else index
            groups.setdefault(key, []).append(index)
        return groups.values()

    def _answers(self, rows: list[list[Any]]) -> list[Any]:
        """The outputs of each request, or the exception that it met."""
        if len(rows) == 1:
            try:
                return [self._run(rows[0])]
            except Exception as error:  # noqa: BLE001 — onnxruntime raises many kinds; each becomes the request's answer
                return [error]
        merged = [np.concatenate(tensors) for tensors in zip(*rows, strict=True)]
        try:
            outputs = self._run(merged)
        except Exception:  # noqa: BLE001 — run alone below, each request meets its own error or none
            return [self._answers([tensors])[0] for tensors in rows]
        ends = np.cumsum([len(tensors[0]) for tensors in rows])[:-1]
        return list(zip(*(np.split(output, ends) for output in outputs), strict=True))

    def _run(self, tensors: list[Any]) -> list[Any]:
        outputs: list[Any] = self.session.run(self.outputs, dict(zip(self.inputs, tensors, strict=True)))
        if self.batched:
            # An output whose rows are not the inputs' rows would be split among the wrong requests.
            for name, output in zip(self.outputs, outputs, strict=True):
                if output.shape[:1] != tensors[0].shape[:1]:
                    raise ValueError(f"output '{name}' has shape {output.shape} for a batch of {len(tensors[0])}")
        return outputs

    def _response(self, outputs: Any) -> Any:
        if isinstance(outputs, Exception):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnx runtime error: {outputs}"))
        tensors = [pb_utils.Tensor(name, tensor) for name, tensor in zip(self.outputs, outputs, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def make_session(graph: Path, config: dict[str, Any], kind: str, device: str) -> ort.InferenceSession:
    if not graph.is_file():
        raise ValueError(f"unable to find '{graph}' for model instance '{config['name']}'")
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = OPTIMIZATION_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "GPU":
        # Without this onnxruntime would quietly answer from the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [("CUDAExecutionProvider", {"device_id": device})]
    return ort.InferenceSession(str(graph), options, providers=providers)


def check(config: dict[str, Any], session: ort.InferenceSession) -> None:
    """Hold the configuration against the graph.

    Raises ValueError with the words of the native backend, which refuses the same configurations.
    """
    name, batched = config["name"], int(config.get("max_batch_size", 0)) > 0
    given, wanted = session.get_inputs(), config["input"]
    if len(given) != len(wanted):
        found = f"configuration expects {len(wanted)} inputs, model provides {len(given)}"
        raise ValueError(f"unable to load model '{name}', {found}")
    for kind, tensors, configured in (("input", given, wanted), ("output", session.get_outputs(), config["output"])):
        by_name = {tensor.name: tensor for tensor in tensors}
        for tensor in configured:
            if tensor["name"] not in by_name:
                allowed = ", ".join(sorted(by_name))
                raise ValueError(f"unexpected inference {kind} '{tensor['name']}', allowed {kind}s are: {allowed}")
            check_tensor(name, kind, tensor, by_name[tensor["name"]], batched)


def check_tensor(model: str, kind: str, configured: dict[str, Any], provided: Any, batched: bool) -> None:
    name, provided_type = configured["name"], TRITON_TYPES.get(provided.type, provided.type)
    if configured["data_type"] != provided_type:
        expected = f"configuration expects datatype {configured['data_type']} for {kind} '{name}'"
        raise ValueError(f"unable to load model '{model}', {expected}, model provides {provided_type}")
    shape = [dim if isinstance(dim, int) else -1 for dim in provided.shape]
    dims = [int(dim) for dim in configured.get("reshape", {}).get("shape", configured["dims"])]
    if batched and shape[:1] != [-1]:
        found = "the first dimension must be -1; but shape expected by the model is"
        support = "for the model to support batching the shape should have at least 1 dimension and"
        raise ValueError(f"model '{model}', tensor '{name}': {support} {found} {words(shape)}")
    complete = [-1, *dims] if batched else dims
    # The native backend lets a configuration fix an input's dimension that the graph leaves open, and nothing else.
    fits = len(shape) == len(complete) and all(
        want == have or (kind == "input" and want == -1) for want, have in zip(shape, complete, strict=True)
    )
    if not fits:
        initial = "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape"
        made = f"({initial}, making complete shape {words(complete)})" if batched else f"(shape {words(complete)})"
        expects = f"the model expects {len(shape)} dimensions (shape {words(shape)})"
        raise ValueError(
            f"model '{model}', tensor '{name}': {expects} but the model configuration specifies "
            f"{len(complete)} dimensions {made}"
        )


def words(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
