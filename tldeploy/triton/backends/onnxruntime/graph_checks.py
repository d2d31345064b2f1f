"""A configuration held against its graph: what Triton's native onnxruntime backend refuses, in its words.

Its rules: only tensors; as many inputs as the graph has, beside the optional ones, which are initializers that a caller
may override, in models that do not batch; names, types and dims as the graph's. A dim of -1 is a value, not a wildcard:
a configuration may fix an input's dim that the graph leaves open, and nothing else. A scalar has dims of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

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
    "tensor(bfloat16)": "TYPE_BF16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
OTHER_KINDS = {"seq": "SEQUENCE", "map": "MAP", "sparse_tensor": "SPARSETENSOR"}


def overridable(session: ort.InferenceSession) -> list[Any]:
    """Initializers that are inputs too, so that a request may give another value."""
    found: list[Any] = session.get_overridable_initializers()
    return found


def check_paths(config: Mapping[str, Any], folder: Path) -> None:
    """Raises ValueError for a graph or a file of labels outside the model repository. folder: of the version.

    onnxruntime itself refuses weights outside that folder.
    """
    repository = folder.parents[1].resolve()
    labels = [folder.parent / tensor.get("label_filename", "") for tensor in config["output"]]
    for path in (folder / (config.get("default_model_filename") or "model.onnx"), *labels):
        if not path.resolve().is_relative_to(repository):
            raise ValueError(f"unable to load model '{config['name']}', '{path}' leads out of the model repository")


def check(config: Mapping[str, Any], session: ort.InferenceSession) -> None:
    """Raises ValueError with the words of the native backend, which refuses the same configurations."""
    model, batched = config["name"], int(config.get("max_batch_size", 0)) > 0
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for tensor in (*inputs, *outputs):
        check_kind(tensor)
    needed = [tensor for tensor in config["input"] if not tensor.get("optional")]
    if len(needed) != len(inputs):
        found = f"configuration expects {len(needed)} inputs, model provides {len(inputs)}"
        raise ValueError(f"unable to load model '{model}', {found}")
    for tensor in config["input"]:
        if tensor.get("optional") and batched:
            why = "is not supported for models that support batching"
            raise ValueError(f"unable to load model '{model}', optional input '{tensor['name']}' {why}")
    check_tensors(model, "input", config["input"], (*inputs, *overridable(session)), batched)
    check_tensors(model, "output", config["output"], outputs, batched)


def check_kind(tensor: Any) -> None:
    kind = tensor.type.partition("(")[0]
    if kind != "tensor":
        found = f"Unsupported ONNX Type 'ONNX_TYPE_{OTHER_KINDS.get(kind, 'UNKNOWN')}' for I/O '{tensor.name}'"
        raise ValueError(f"{found}, expected 'ONNX_TYPE_TENSOR'.")


def check_tensors(
    model: str, kind: str, configured: Iterable[Mapping[str, Any]], provided: Iterable[Any], batched: bool
) -> None:
    by_name = {tensor.name: tensor for tensor in provided}
    for tensor in configured:
        name = tensor["name"]
        if name not in by_name:
            allowed = ", ".join(sorted(by_name))
            raise ValueError(f"unexpected inference {kind} '{name}', allowed {kind}s are: {allowed}")
        found = TRITON_TYPES.get(by_name[name].type, by_name[name].type)
        if tensor["data_type"] != found:
            expected = f"configuration expects datatype {tensor['data_type']} for {kind} '{name}'"
            raise ValueError(f"unable to load model '{model}', {expected}, model provides {found}")
        check_dims(model, kind, tensor, by_name[name], batched)


def check_dims(model: str, kind: str, configured: Mapping[str, Any], provided: Any, batched: bool) -> None:
    name = configured["name"]
    shape = [dim if isinstance(dim, int) else -1 for dim in provided.shape]
    dims = [int(dim) for dim in configured.get("reshape", {}).get("shape", configured["dims"])]
    if batched and shape[:1] != [-1]:
        found = "the first dimension must be -1; but shape expected by the model is"
        support = "for the model to support batching the shape should have at least 1 dimension and"
        raise ValueError(f"model '{model}', tensor '{name}': {support} {found} {words(shape)}")
    if not shape:
        if set(dims) - {1}:
            only = "should only provide 1 in the model configuration when the model doesn't support batching"
            given = f"Model configuration provided: {words(dims)}"
            raise ValueError(f"unable to load model '{model}', scalar tensor '{name}', {only}. {given}.")
        return
    complete = [-1, *dims] if batched else dims
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
