"""Rules about how a model runs: batching, instances and threads, optimization, warm-up."""

from __future__ import annotations

from tldeploy.triton.lint.models import Model, Target, datatype_of
from tldeploy.triton.lint.rules import Edit

INTEGERS = {"TYPE_INT32", "TYPE_INT64"}


def check_running(model: Model, target: Target) -> None:
    _batching(model)
    _instances(model, target)
    _optimization(model)
    _warmup(model)


def _batching(model: Model) -> None:
    config = model.known
    if config.max_batch_size < 0:
        found = f"'max_batch_size' must be non-negative value for {model.name}"
        model.report("max-batch-negative", found, "max_batch_size: 0, or a batch size", "max_batch_size")
        return
    if not config.HasField("dynamic_batching"):
        return
    preferred = list(config.dynamic_batching.preferred_batch_size)
    completed = model.backend == "onnxruntime" and not (config.input and config.output)
    if not config.max_batch_size:
        if not completed:
            _batching_off(model, preferred)
        return
    for index, size in enumerate(preferred):
        if not 1 <= size <= config.max_batch_size:
            found = f"dynamic batching preferred size must be from 1 to max batch size for {model.name}"
            values = {"preferred_batch_size": size, "max_batch_size": config.max_batch_size}
            at = ("dynamic_batching", "preferred_batch_size", index)
            model.report("preferred-batch-size", found, "raise max_batch_size, or take it out", *at, values=values)


def _batching_off(model: Model, preferred: list[int]) -> None:
    """Safe to mend when the dims were written for batches and the preferred sizes say how large these are."""
    edit = None
    if model.batching_forgotten and preferred and model.text is not None:
        size, spot = max(preferred), model.layout.spot("max_batch_size")
        said = f"max_batch_size is now {size}, the largest preferred_batch_size"
        if spot:
            edit = Edit(spot.value, spot.end, str(size), said)
        elif before := model.layout.spot("dynamic_batching"):
            edit = Edit(before.start, before.start, f"max_batch_size: {size}\n", said)
    found = "dynamic_batching is set, but nothing is batched while max_batch_size is 0"
    values = {"max_batch_size": model.known.max_batch_size, "dynamic_batching": f"preferred {preferred or 'any'}"}
    fix = "set max_batch_size; dims are then without the batch axis"
    model.report("batching-off", found, fix, "dynamic_batching", values=values, edit=edit)


def _instances(model: Model, target: Target) -> None:
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    config, on_cpu = model.known, 0
    for index, group in enumerate(config.instance_group):
        at = ("instance_group", index)
        if group.count < 0 or (not group.count and model.layout.spot(*at, "count")):
            found = f"instance group {index} has the count {group.count}"
            model.report("instance-count", found, "count: 1, or more", *at, "count")
        if group.kind == ModelInstanceGroup.KIND_GPU and not target.gpus:
            found = "KIND_GPU is asked for, and there is no NVIDIA GPU here"
            fix = "lint with --gpus 1 if its server has one; else `tldeploy deploy … --device cpu`, or kind: KIND_CPU"
            model.report("gpu-absent", found, fix, *at, "kind")
        elif beyond := [gpu for gpu in group.gpus if not 0 <= gpu < target.gpus]:
            found = f"instance group {index} asks for GPU {', '.join(map(str, beyond))}, which Triton refuses"
            values = {"gpus": list(group.gpus), "GPUs of the server": target.gpus}
            there = f"those from 0 to {target.gpus - 1}" if target.gpus else "none"
            fix = f"name {there} (in a recipe `deploy.cuda.gpus`), or lint with the --gpus of its server"
            model.report("gpu-number", found, fix, *at, "gpus", values=values)
        automatic = group.kind == ModelInstanceGroup.KIND_AUTO and not target.gpus
        if group.kind == ModelInstanceGroup.KIND_CPU or automatic:
            on_cpu += max(1, group.count)
    if model.backend == "onnxruntime":
        _threads(model, on_cpu or (0 if config.instance_group or target.gpus else 1), target)


def _threads(model: Model, instances: int, target: Target) -> None:
    """Without a number onnxruntime gives each instance a thread for every core."""
    parameters = model.known.parameters
    said = parameters["intra_op_thread_count"].string_value if "intra_op_thread_count" in parameters else ""
    asked = int(said) if said.isdecimal() else 0
    threads = instances * (asked or target.cores)
    if threads <= target.cores:
        return
    each = max(1, target.cores // instances)
    found = f"{instances} instance{'s' if instances > 1 else ''} with {asked or target.cores} threads each"
    values = {"threads": threads, "cores": target.cores}
    fix = f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{each}" }} }}'
    if instances > target.cores:
        fix += f", and at most {target.cores} instances"
    at = ("instance_group", 0, "count") if model.known.instance_group else ("parameters",)
    model.report("threads-oversubscribed", found, fix, *at, values=values)


def _optimization(model: Model) -> None:
    at = ("optimization", "graph", "level")
    level = model.known.optimization.graph.level
    if model.backend != "onnxruntime" or level in {-1, 0, 1}:
        return
    does = "turns every optimization off" if level == 2 else "means nothing: all optimizations are on"
    spot = model.layout.spot(*at)
    edit = Edit(spot.start, spot.end, "", f"graph.level {level} is gone: all optimizations are on") if spot else None
    found, fix = f"level {level} {does}", "take it out for all, or write -1 (basic) or 1 (extended)"
    model.report("graph-level", found, fix, *at, values={"level": level}, edit=edit)


def _warmup(model: Model) -> None:
    config = model.known
    needed = {port.name for port in model.inputs if not port.optional}
    allowed = {port.name for port in model.inputs}
    for index, sample in enumerate(config.model_warmup):
        at = ("model_warmup", index)
        given = set(sample.inputs)
        if allowed and (not given <= allowed or not needed <= given):
            values = {"sample": ", ".join(sorted(given)), "inputs": ", ".join(sorted(allowed))}
            fix = "give every input of the model once"
            model.report("warmup-input", f"sample {sample.name!r} has other inputs", fix, *at, values=values)
        if sample.batch_size > max(1, config.max_batch_size):
            values = {"batch_size": sample.batch_size, "max_batch_size": config.max_batch_size}
            found = f"sample {sample.name!r} is larger than a batch may be"
            model.report("warmup-input", found, "lower its batch_size", *at, "batch_size", values=values)
        _warmup_data(model, sample.inputs, at)


def _warmup_data(model: Model, inputs: object, at: tuple[str, int]) -> None:
    for name, tensor in sorted(inputs.items()):  # type: ignore[attr-defined]
        datatype = datatype_of(tensor)
        if tensor.random_data and datatype in INTEGERS:
            found = f"input '{name}' gets random {datatype}, most of them outside any vocabulary"
            model.report("warmup-random-ids", found, "zero_data: true, or an input_data_file", *at)
        file = tensor.input_data_file
        if file and not (model.folder / "warmup" / file).is_file():
            model.report("warmup-input", f"there is no file warmup/{file}", "put it there", *at)
