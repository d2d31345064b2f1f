"""The session of a graph, with the options that Triton's native onnxruntime backend reads from a configuration.

optimization.graph.level             -1 basic, 1 extended, 2 none; otherwise all
optimization.execution_accelerators  `tensorrt` or `cuda` on a GPU, `openvino` on the CPU, with their parameters
model_operations                     libraries of custom operators
parameters                           intra_op_thread_count, inter_op_thread_count, execution_mode, enable_mem_arena,
                                     enable_mem_pattern, session.use_device_allocator_for_initializers,
                                     memory.enable_memory_arena_shrinkage; on a GPU gpu_mem_limit,
                                     arena_extend_strategy, cudnn_conv_algo_search, do_copy_in_default_stream,
                                     which go before the same beside the accelerator

Kind and device are those of the instance. share_session_between_instances is without effect: each instance is a process
of its own. What is asked for and not there is refused (ValueError), where onnxruntime would quietly use the CPU: a
provider, by the library that it lacks; or one that would leave what a network computes to the CPU, by the nodes. So are
CUDA graphs, which the native backend lets pass: a captured graph is replayed whatever the next request holds
(microsoft/onnxruntime#20050).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

OPTIMIZATION_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
EXECUTION_MODES = {"0": ort.ExecutionMode.ORT_SEQUENTIAL, "1": ort.ExecutionMode.ORT_PARALLEL}
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
INITIALIZERS_ON_DEVICE = "session.use_device_allocator_for_initializers"
SHRINKAGE = "memory.enable_memory_arena_shrinkage"
CPU = "CPUExecutionProvider"

# What a network spends its time on, as in runtime/session.py. The CUDA provider itself leaves the arithmetic on shapes
# to the CPU, which `session.disable_cpu_ep_fallback` refuses as well (microsoft/onnxruntime#17930).
COMPUTE = {
    "Attention", "BiasGelu", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
    "Einsum", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "Gemm",
    "GroupQueryAttention", "LayerNormalization", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits",
    "MultiHeadAttention", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "QuickGelu", "SkipLayerNormalization",
    "Softmax",
}  # fmt: skip
MOST_NODES = 3  # named in an error

# What providers are loaded from. cuDNN is not linked, but looked for when a node first wants it.
LIBRARIES = {
    "CUDAExecutionProvider": ("libonnxruntime_providers_cuda.so", "libcudnn.so.9"),
    "TensorrtExecutionProvider": ("libonnxruntime_providers_tensorrt.so",),
}

# Values of the CUDA parameters that a configuration gives by number.
CUDA_CHOICES = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
}
CUDA_PLAIN = ("gpu_mem_limit", "do_copy_in_default_stream")
CUDA_GRAPHS = ("enable_cuda_graph", "trt_cuda_graph_enable")
TENSORRT_PRECISIONS = {"FP32": {}, "FP16": {"trt_fp16_enable": "1"}, "BF16": {"trt_bf16_enable": "1"},
                       "INT8": {"trt_int8_enable": "1"}}  # fmt: skip
TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}

Providers = list[tuple[str, dict[str, str]]]


def make_session(folder: Path, config: Mapping[str, Any], kind: str, device: str) -> ort.InferenceSession:
    """folder: of the version. kind: `GPU`, or the CPU. device: the GPU's number."""
    graph = folder / (config.get("default_model_filename") or "model.onnx")
    if graph.is_dir():
        graph /= "model.onnx"
    if not graph.is_file():
        raise ValueError(f"unable to find '{graph}' for model instance '{config['name']}'")
    options = make_options(config)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = gpu_providers(config, device) if kind == "GPU" else cpu_providers(config)
    return open_on(providers, graph, options, f"model '{config['name']}'")


def open_on(providers: Providers, graph: Path, options: ort.SessionOptions, model: str) -> ort.InferenceSession:
    """The first provider computes, and those after it what it cannot; the CPU only where it is among them."""
    wanted = [name for name, _ in providers]
    asked = f"{model} asks for {', '.join(wanted)}"
    if lacking := set(wanted) - set(ort.get_available_providers()):
        lacks = f"this onnxruntime was built without {', '.join(sorted(lacking))}"
        raise ValueError(f"{asked}; {lacks}; {remedy()}")
    try:
        # enable_fallback would run on the CPU, with no word to us, what fails on its provider.
        session = ort.InferenceSession(str(graph), options, providers=providers, enable_fallback=False)
    except Exception as error:
        if found := next(filter(None, map(missing_library, wanted)), None):
            raise ValueError(f"{asked}; {found}; {remedy(found)}") from error
        raise
    if session.get_providers()[: len(wanted)] != wanted:
        found = next(filter(None, map(missing_library, wanted)), None)
        instead = f"onnxruntime would use {', '.join(session.get_providers())}"
        raise ValueError(f"{asked}; {found or instead}; {remedy(found)}")
    if CPU not in wanted and (left := compute_on_the_cpu(session)):
        more = f" and {len(left) - MOST_NODES} more" if len(left) > MOST_NODES else ""
        kept = f"it would leave {', '.join(left[:MOST_NODES])}{more} to the CPU"
        raise ValueError(f"{asked}; {kept}; publish a variant that it computes, or serve on the CPU")
    return session


def compute_on_the_cpu(session: ort.InferenceSession) -> list[str]:
    """The nodes that compute, and that a session leaves to the CPU, by name and operator; it was opened with
    `session.record_ep_graph_assignment_info`."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == CPU]
    nodes = [node for part in parts for node in part.get_nodes() if node.op_type in COMPUTE]
    return [f"{node.name} ({node.op_type})" if node.name else node.op_type for node in nodes]


def missing_library(provider: str, load: Callable[[str], Any] = ctypes.CDLL) -> str | None:
    """What the system's loader does not find of what a provider needs, in its words.

    The workers' environment has no CUDA: the loader finds what pip installed beside tldeploy, or the system's own.
    """
    own = Path(ort.__file__).parent / "capi"
    for name in LIBRARIES.get(provider, ()):
        try:
            load(str(own / name) if name.startswith("libonnxruntime") else name)
        except OSError as error:
            if "cannot open shared object" in str(error):
                return str(error)
    return None


def remedy(missing: str | None = None) -> str:
    """What to do about a library that is missing, or a provider that does not start for another reason."""
    if missing and missing.startswith("libcuda.so"):
        return "install NVIDIA's driver, or serve on the CPU"
    if missing and missing.startswith(("libnvinfer", "libnvonnxparser")):
        return "put TensorRT's libraries on LD_LIBRARY_PATH, or serve by CUDA alone"
    return "`pip install 'onnxruntime-gpu[cuda,cudnn]'` where tldeploy is installed, and start the server again"


def make_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    options, parameters = ort.SessionOptions(), parameters_of(config)
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = OPTIMIZATION_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    mode = parameters.get("execution_mode", "0")
    if mode not in EXECUTION_MODES:
        expected = "Expected values for execution_mode are 0 or 1"
        raise ValueError(f"Invalid configuration value provided. {expected} but got {mode}.")
    options.execution_mode = EXECUTION_MODES[mode]
    options.intra_op_num_threads = number(parameters, "intra_op_thread_count")
    options.inter_op_num_threads = number(parameters, "inter_op_thread_count")
    options.enable_cpu_mem_arena = boolean(parameters, "enable_mem_arena")
    options.enable_mem_pattern = boolean(parameters, "enable_mem_pattern")
    if INITIALIZERS_ON_DEVICE in parameters:
        options.add_session_config_entry(INITIALIZERS_ON_DEVICE, parameters[INITIALIZERS_ON_DEVICE])
    for library in config.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    return options


def make_run_options(config: Mapping[str, Any]) -> ort.RunOptions:
    options, parameters = ort.RunOptions(), parameters_of(config)
    if SHRINKAGE in parameters:
        options.add_run_config_entry(SHRINKAGE, parameters[SHRINKAGE])
    return options


def cpu_providers(config: Mapping[str, Any]) -> Providers:
    known = {"openvino": "OpenVINOExecutionProvider"}
    asked = [(known[named(each, known)], {"device_type": "CPU"}) for each in accelerators(config, "cpu")]
    return [*asked, (CPU, {})]


def gpu_providers(config: Mapping[str, Any], device: str) -> Providers:
    providers: Providers = []
    cuda: dict[str, str] = {}
    for each in accelerators(config, "gpu"):
        asked = each.get("parameters", {})
        for name in CUDA_GRAPHS:
            if boolean(asked, name, "false"):
                raise ValueError(f"{name} is requested: a captured graph is replayed whatever the next request holds")
        if named(each, ("tensorrt", "cuda")) == "cuda":
            cuda |= asked
        else:
            providers.append(("TensorrtExecutionProvider", {"device_id": device, **tensorrt_options(asked)}))
    cuda |= cuda_options(parameters_of(config))
    return [*providers, ("CUDAExecutionProvider", {**cuda, "device_id": device})]


def cuda_options(parameters: Mapping[str, str]) -> dict[str, str]:
    options = {name: parameters[name] for name in CUDA_PLAIN if name in parameters}
    for name, choices in CUDA_CHOICES.items():
        if name in parameters:
            if parameters[name] not in choices:
                raise ValueError(f"unsupported {name} value '{parameters[name]}' is requested")
            options[name] = choices[parameters[name]]
    return options


def tensorrt_options(parameters: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parameters.items():
        if name == "precision_mode":
            if value not in TENSORRT_PRECISIONS:
                raise ValueError(f"unsupported precision mode '{value}' is requested")
            options |= TENSORRT_PRECISIONS[value]
        elif name in TENSORRT_NAMES or name.startswith("trt_"):
            options[TENSORRT_NAMES.get(name, name)] = value
        else:
            raise ValueError(f"unknown parameter '{name}' is provided for TensorRT Execution Accelerator")
    return options


def accelerators(config: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    asked = config.get("optimization", {}).get("execution_accelerators", {})
    listed: list[dict[str, Any]] = asked.get(f"{device}_execution_accelerator", [])
    return listed


def named(accelerator: Mapping[str, Any], known: Any) -> str:
    name: str = accelerator["name"]
    if name not in known:
        raise ValueError(f"unknown Execution Accelerator '{name}' is requested")
    return name


def parameters_of(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}


def number(parameters: Mapping[str, str], name: str) -> int:
    """0, onnxruntime's own choice, unless a positive number is given."""
    value = parameters.get(name, "0")
    try:
        return max(0, int(value))
    except ValueError:
        raise ValueError(f"parameter '{name}' is '{value}', not a number") from None


def boolean(parameters: Mapping[str, str], name: str, default: str = "true") -> bool:
    value = parameters.get(name, default)
    if value.lower() not in BOOLEANS:
        raise ValueError(f"parameter '{name}' is '{value}', not true or false")
    return BOOLEANS[value.lower()]
