"""A recipe's options for serving, as fields of Triton's configuration: one function a concern.

What hangs on the server, and not on a model, is in server_options.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tldeploy.recipe import Cuda, Deploy, TensorRT
from tldeploy.recipe.serving import ON

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from tldeploy.recipe.options import Precision
    from tldeploy.recipe.serving import Target
    from tldeploy.triton.config import Tensor

MIB = 2**20
_PRECISIONS: Mapping[str, Precision] = {"fp16": "FP16", "bf16": "BF16", "int8-static": "INT8"}
# Those that the native backend takes from `parameters`, by number. What it finds of them beside the accelerator it
# overwrites with its own defaults, whatever its README says.
_NUMBERED = {
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
}


def resolved(settings: Deploy, target: Target, variant: str, measured: Mapping[str, str] | None = None) -> Deploy:
    """With the device, the provider's options and the precision that follow from the export, where the recipe leaves
    them open.

    target: what the graphs were exported for. variant: the chosen one. measured: the options with which it was fastest
    on the target; see exporting/sessions.py.

    On a GPU that includes TF32, which the CUDA provider computes fp32 in unless it is told not to: it is off, where it
    was not measured and kept. TensorRT computes what it takes of fp32 in TF32 too, and onnxruntime has no option
    against that.
    """
    update: dict[str, Any] = {"device": settings.device or ON[target]}
    if update["device"] != "cpu":
        cuda = settings.cuda or Cuda()
        if measured and update["device"] == target == "cuda":
            cuda = _as_measured(cuda, settings, measured)
        update["cuda"] = cuda.model_copy(update={"use_tf32": bool(cuda.use_tf32)})
    if update["device"] == "tensorrt":
        tensorrt = settings.tensorrt or TensorRT()
        precision = tensorrt.precision or _PRECISIONS.get(variant, "FP32")
        update["tensorrt"] = tensorrt.model_copy(update={"precision": precision})
    return settings.model_copy(update=update)


def _as_measured(cuda: Cuda, settings: Deploy, measured: Mapping[str, str]) -> Cuda:
    """But not EXHAUSTIVE where a request may have a batch size that was not warmed up: it would wait for seconds, while
    every algorithm is tried."""
    found = Cuda.model_validate(dict(measured))
    taken = found.model_fields_set - cuda.model_fields_set
    if not settings.warmup or settings.max_batch_size > 2:  # one row and the largest batch are
        taken -= {"cudnn_conv_algo_search"}
    return cuda.model_copy(update={name: getattr(found, name) for name in taken})


def on_device(config: ModelConfig, settings: Deploy) -> None:
    """Move the graph's instances to the GPUs, with the options of their providers."""
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    if settings.device not in {"cuda", "tensorrt"}:
        return
    cuda = settings.cuda or Cuda()
    for group in config.instance_group:
        group.kind = ModelInstanceGroup.KIND_GPU
        group.gpus.extend(cuda.gpus)
    # Of our own backend: what lies on a GPU already is handed over there. The native one knows none of that name.
    config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"
    for name, text in _cuda_parameters(cuda).items():
        config.parameters[name].string_value = text
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    if settings.device == "tensorrt":
        accelerators.add(name="tensorrt", parameters=_tensorrt_options(settings.tensorrt or TensorRT()))
    if options := _cuda_options(cuda):
        accelerators.add(name="cuda", parameters=options)


def _cuda_parameters(cuda: Cuda) -> dict[str, str]:
    given = {name: getattr(cuda, name) for name in _NUMBERED}
    numbered = {name: str(_NUMBERED[name].index(value)) for name, value in given.items() if value is not None}
    if cuda.gpu_mem_limit_mb is not None:
        numbered["gpu_mem_limit"] = str(cuda.gpu_mem_limit_mb * MIB)
    if cuda.do_copy_in_default_stream is not None:
        numbered["do_copy_in_default_stream"] = str(int(cuda.do_copy_in_default_stream))
    return numbered


def _cuda_options(cuda: Cuda) -> dict[str, str]:
    names = ("cudnn_conv_use_max_workspace", "use_tf32", "prefer_nhwc")
    return {name: str(int(value)) for name in names if (value := getattr(cuda, name)) is not None}


def _tensorrt_options(tensorrt: TensorRT) -> dict[str, str]:
    options: dict[str, str] = {"precision_mode": tensorrt.precision or "FP32"}
    if tensorrt.max_workspace_mb is not None:
        options["max_workspace_size_bytes"] = str(tensorrt.max_workspace_mb * MIB)
    if tensorrt.engine_cache_path is not None:
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": tensorrt.engine_cache_path}
    return options


def warm_step(config: ModelConfig, given: Tensor, settings: Deploy) -> None:
    """Let the step take an empty text before it is ready. An empty file would be no image."""
    if settings.warmup and given.name == "text":
        _zeros(config.model_warmup.add(name="an empty text", batch_size=1).inputs[given.name], given)


def warm_graph(config: ModelConfig, inputs: Sequence[Tensor], lengths: Iterable[int], settings: Deploy) -> None:
    """Run the graph before it is ready, for each padded length that rows have: those are the shapes that will come.

    lengths: none where all rows have one shape. Of each a single row; on a GPU, where a new shape means looking for
    algorithms or building an engine, the largest batch as well. On a CPU that takes seconds and wins nothing that was
    measurable. The ids are zeros: random ones would lie outside any vocabulary.

    TensorRT builds its engine anew for a shape outside of the range that it has seen, so that range's ends come first:
    the largest batch of the longest rows, which is what the engine is tuned for, and 1 x 1, which is all that the watch
    of a server asks (watch.py). Two builds do for the others. A profile with these ends (`trt_profile_min_shapes`)
    would save one, but onnxruntime refuses it where it leaves out an open input of any part of the graph that TensorRT
    takes (microsoft/onnxruntime#17007), and which those are is not known before.
    """
    if not settings.warmup:
        return
    sizes = [1] if settings.device in {None, "cpu"} else sorted({1, settings.max_batch_size})
    shapes = [(size, length) for length in sorted(lengths) or [1] for size in sizes]
    ends = [max(shapes), (1, 1)] if settings.device == "tensorrt" else []
    for size, length in dict.fromkeys([*ends, *shapes]):
        sample = config.model_warmup.add(name=f"{size} x {length}", batch_size=size)
        for tensor in inputs:
            _zeros(sample.inputs[tensor.name], tensor, length)


def _zeros(data: Any, tensor: Tensor, length: int = 1) -> None:
    """length: of dims that are open."""
    from tritonclient.grpc.model_config_pb2 import DataType

    data.data_type = DataType.Value(tensor.datatype)
    data.dims.extend(length if dim == -1 else dim for dim in tensor.dims[1:])
    data.zero_data = True


def queue_up(config: ModelConfig, settings: Deploy) -> None:
    """How requests wait. An ensemble hands their priority and timeout on to its steps."""
    from tritonclient.grpc.model_config_pb2 import ModelQueuePolicy

    queue, batching = settings.queue, config.dynamic_batching
    if queue.priority_levels:
        batching.priority_levels = queue.priority_levels
        batching.default_priority_level = queue.default_priority_level or queue.priority_levels
    if queue.max_size or queue.timeout_us:
        policy = batching.default_queue_policy
        policy.max_queue_size, policy.default_timeout_microseconds = queue.max_size, queue.timeout_us
        policy.timeout_action = ModelQueuePolicy.TimeoutAction.Value(queue.timeout_action.upper())
        policy.allow_timeout_override = queue.allow_timeout_override


def limit_rate(config: ModelConfig, settings: Deploy) -> None:
    """What an execution of the graph takes of the server's resources."""
    if settings.rate_limit is None:
        return
    for group in config.instance_group:
        group.rate_limiter.priority = settings.rate_limit.priority
        for name, count in settings.rate_limit.resources.items():
            group.rate_limiter.resources.add(name=name, count=count)


def cache(config: ModelConfig, settings: Deploy) -> None:
    """Of the ensemble: a hit saves all its steps, and asking a step by itself still reaches its worker."""
    if settings.cache_mb:
        config.response_cache.enable = True
