"""Rules about inputs, outputs and labels: the configuration by itself, and against the graph.

The wording is that of Triton's native onnxruntime backend, which refuses the same configurations. A dim of -1 is a
value, not a wildcard: a configuration may fix an input's dim that the graph leaves open, and nothing else.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from tldeploy.triton.lint.graph import Graph, GraphTensor
from tldeploy.triton.lint.models import Model, datatype_of, dims_of, words
from tldeploy.triton.lint.reading import nearest

Kind = Literal["input", "output"]


def check_tensors(model: Model) -> None:
    for kind in ("input", "output"):
        _declarations(model, kind)
    _labels(model)
    for version, graph in model.graphs.items():
        if isinstance(graph, Graph):
            file = model.model_file(version)
            _against_graph(model, graph, f"{version}/{file.name}" if file else str(version))


def _declarations(model: Model, kind: Kind) -> None:
    seen: set[str] = set()
    for index, tensor in enumerate(getattr(model.known, kind)):
        for field in ("name", "data_type", "dims"):
            if not getattr(tensor, field):
                found = f"model {kind} must specify '{field}'"
                fix = f"give {kind} {tensor.name or index} its {field}"
                model.report("tensor-declaration", found, fix, kind, index)
        wrong = [dim for dim in tensor.dims if dim < 1 and dim != -1]
        if wrong:
            found = f"model {kind} dimension must be integer >= 1, or -1 to indicate a variable-size dimension"
            values = {"config.pbtxt": words(tensor.dims)}
            model.report("tensor-declaration", found, "write -1 for an open dim", kind, index, "dims", values=values)
        if tensor.name and tensor.name in seen:
            fix = "take one of the two out"
            model.report("tensor-twice", f"{kind} '{tensor.name}' is declared twice", fix, kind, index, "name")
        seen.add(tensor.name)


def _labels(model: Model) -> None:
    provided = {tensor.name: tensor for tensor in (model.graph.outputs if model.graph else ())}
    for index, output in enumerate(model.known.output):
        if not output.label_filename:
            continue
        file, at = model.folder / output.label_filename, ("output", index, "label_filename")
        if model.leads_out(file):
            continue  # path-leaves says it
        if not file.is_file():
            found = f"there is no file {output.label_filename}"
            model.report("label-file-missing", found, f"put it into {model.name}/, a label a line", *at)
            continue
        labels = len(file.read_text(encoding="utf-8", errors="replace").splitlines())
        declared: tuple[int, ...] = tuple(output.dims)
        graph = provided.get(output.name)
        if -1 in declared and graph and graph.dims:
            declared = graph.dims[1:] if model.batches else graph.dims
        values = math.prod(declared)
        if declared and min(declared) > 0 and labels != values:
            found = f"output '{output.name}' has {values} values and {labels} labels"
            shown = {output.label_filename: labels, "config.pbtxt": words(output.dims)}
            model.report("label-count", found, "write one label a line, in the order of the classes", *at, values=shown)


def _against_graph(model: Model, graph: Graph, file: str) -> None:
    for kind, provided in (("input", graph.inputs), ("output", graph.outputs)):
        declared = list(getattr(model.known, kind))
        if not declared:
            continue  # the server completes it from the graph
        known = {tensor.name: tensor for tensor in provided}
        unexpected = [index for index, tensor in enumerate(declared) if tensor.name and tensor.name not in known]
        for index in unexpected:
            _unexpected(model, kind, index, declared[index].name, [*known], file)
        missing = known.keys() - {tensor.name for tensor in declared}
        if kind == "input" and len(missing) > len(unexpected):
            found = f"configuration expects {len(declared)} inputs, model provides {len(known)}"
            values = {"config.pbtxt": ", ".join(t.name for t in declared), file: ", ".join(known)}
            fix = f"declare {', '.join(sorted(missing))}"
            model.report("tensor-missing", found, fix, "input", values=values)
        for index, tensor in enumerate(declared):
            if tensor.name in known:
                _tensor(model, kind, index, tensor, known[tensor.name], file)


def _unexpected(model: Model, kind: str, index: int, name: str, allowed: list[str], file: str) -> None:
    found = f"unexpected inference {kind} '{name}', allowed {kind}s are: {', '.join(sorted(allowed))}"
    close = nearest(name, allowed)
    fix = f'name: "{close[0]}"' if close else f"one of {', '.join(sorted(allowed))}"
    values = {"config.pbtxt": name, file: ", ".join(sorted(allowed))}
    model.report("tensor-unexpected", found, fix, kind, index, "name", values=values)


def _tensor(model: Model, kind: str, index: int, declared: Any, provided: GraphTensor, file: str) -> None:
    if not provided.datatype.startswith("TYPE_"):
        if provided.datatype != "BFLOAT16":  # onnxruntime's bfloat16 is Triton's TYPE_BF16 in newer servers
            found = f"{kind} '{declared.name}' has the type {provided.datatype}, which Triton cannot carry"
            model.report("datatype-unsupported", found, "cast it inside the graph", kind, index)
        return
    datatype = datatype_of(declared)
    if declared.data_type and datatype != provided.datatype:
        expects = f"configuration expects datatype {datatype} for {kind} '{declared.name}'"
        found = f"{expects}, model provides {provided.datatype}"
        values = {"config.pbtxt": datatype, file: provided.datatype}
        model.report("datatype", found, f"data_type: {provided.datatype}", kind, index, "data_type", values=values)
    if provided.dims is not None and (declared.dims or declared.HasField("reshape")):
        _dims(model, kind, index, declared, provided.dims, file)


def _dims(model: Model, kind: str, index: int, declared: Any, shape: tuple[int, ...], file: str) -> None:
    batched = model.batches or model.batching_forgotten
    complete = (-1, *dims_of(declared)) if batched else dims_of(declared)
    about = f"model '{model.name}', tensor '{declared.name}':"
    values = {"config.pbtxt": words(complete), file: words(shape)}
    if batched and shape[:1] != (-1,):
        found = (
            f"{about} for the model to support batching the shape should have at least 1 dimension and the first "
            f"dimension must be -1; but shape expected by the model is {words(shape)}"
        )
        fix = "export the graph with an open batch axis, or set max_batch_size: 0 and write all dims"
        model.report("batch-axis", found, fix, kind, index, "dims", values=values)
        return
    fits = len(shape) == len(complete) and all(
        want == have or (kind == "input" and want == -1) for want, have in zip(shape, complete, strict=True)
    )
    if fits:
        return
    initial = "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape"
    made = f"({initial}, making complete shape {words(complete)})" if batched else f"(shape {words(complete)})"
    found = (
        f"{about} the model expects {len(shape)} dimensions (shape {words(shape)}) but the model configuration "
        f"specifies {len(complete)} dimensions {made}"
    )
    without = shape[1:] if batched else shape
    fix = f"dims: {words(without).replace(',', ', ')}"
    if shape == (-1, *complete):
        fix += ", or set max_batch_size, which adds the first"
    model.report("dims", found, fix, kind, index, "dims", values=values)
