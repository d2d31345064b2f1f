"""onnxruntime sessions that run where they were asked to, or not at all.

Where a session may not leave computation to the CPU, its placement is checked, node by node. That is more than
`session.disable_cpu_ep_fallback` gives: it refuses a graph for a single node that computes a shape, as nearly every one
with open axes has, and names none, so that a refusal says nothing about computation, and the placement would have to be
checked all the same. Where it refuses nothing, the check has nothing to find.

And what is said where a GPU does not get through a run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tldeploy.devices import PROVIDERS as ON_A_GPU
from tldeploy.devices import preload
from tldeploy.environment import usable_cores
from tldeploy.errors import ArtifactError, MachineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

    from tldeploy.recipe.serving import Target

Provider = Literal[
    "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider", "OpenVINOExecutionProvider"
]

# What a network spends its time on. Other nodes may be left to the CPU: the CUDA provider wants the arithmetic on
# shapes there, and `session.disable_cpu_ep_fallback` refuses that as well (microsoft/onnxruntime#17930). Integer and
# fused ones have names of their own: some the file has, others a session makes of what is on the CPU. QuantizeLinear
# and DequantizeLinear convert, as Cast does; what they stand around is here.
COMPUTE = {
    "Attention", "BiasGelu", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
    "Einsum", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "Gemm",
    "GroupQueryAttention", "LayerNormalization", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits",
    "MultiHeadAttention", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "QuickGelu", "SkipLayerNormalization",
    "Softmax",
}  # fmt: skip
# Where each target's graphs run.
PROVIDERS: Mapping[Target, Provider] = {
    "cpu": "CPUExecutionProvider",
    "cuda": ON_A_GPU["cuda"],
    "tensorrt": ON_A_GPU["tensorrt"],
    "openvino": "OpenVINOExecutionProvider",
}
# What CUDA is told unless a caller says otherwise. By itself onnxruntime computes fp32 in TF32 where the GPU can, with
# ten bits of mantissa (microsoft/onnxruntime#19288), and tries all algorithms of convolutions again for each new shape.
CUDA_OPTIONS: Mapping[str, str] = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
# Of those that compute on a GPU.
LIBRARIES = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}

MOST_WORDS = 600  # of a message: at the end of a long one is how much memory was asked for
OWN_ERRORS = "onnxruntime.capi.onnxruntime_pybind11_state"


def open_session(
    model: Path,
    provider: Provider = "CPUExecutionProvider",
    options: SessionOptions | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> InferenceSession:
    """A session whose first provider is verified to be `provider`, with all of COMPUTE on it; it runs on all cores.

    options: what a caller wants besides, such as a profile. provider_options: as onnxruntime documents them; those of
    CUDA_OPTIONS hold where they are not among them. TensorRT leaves to CUDA what it cannot do.

    Raises MachineError when the provider is not to be had, instead of falling back, or would leave computation to
    the CPU; ArtifactError for a model that onnxruntime cannot read.
    """
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    preload(provider)
    asked = f"run {model.name} on {provider}"
    try:
        providers = providers_for(model, provider, provider_options or {})
        # enable_fallback would go on with the CPU after what fails, here or in a run, and only print it.
        session = onnxruntime.InferenceSession(str(model), options, providers=providers, enable_fallback=False)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = in_a_line(error).replace(f"Load model from {model} failed:", "")
        if provider == "CPUExecutionProvider":
            raise ArtifactError(asked, reason, "export the model again") from error
        fix = "see `tldeploy doctor`, or use the CPU"
        raise MachineError(asked, missing_library(provider) or reason, fix) from error
    used = session.get_providers()
    if used[0] != provider:
        fix = "see `tldeploy doctor` for the driver and libraries it needs, or use the CPU"
        found = missing_library(provider) or f"onnxruntime would use {', '.join(used)} instead"
        raise MachineError(asked, found, fix)
    if provider != "CPUExecutionProvider" and (left := compute_on_the_cpu(session)):
        found = f"it would leave {', '.join(sorted(left))} to the CPU"
        raise MachineError(asked, found, "leave this variant out, or use the CPU")
    return session


@contextmanager
def running(model: Path, provider: str) -> Iterator[None]:
    """Around runs of a session: what onnxruntime raises there on a GPU, whose memory may be full, is a MachineError.

    On the CPU it is most often an input that does not fit, and comes through as it is.
    """
    try:
        yield
    except Exception as error:  # onnxruntime's share no base class; a run with bound memory raises RuntimeError itself
        if provider not in LIBRARIES or not (type(error) is RuntimeError or type(error).__module__ == OWN_ERRORS):
            raise
        fix = "see by `nvidia-smi` what else holds the GPU's memory, ask fewer rows at a time, or use the CPU"
        raise MachineError(f"run {model.name} on {provider}", in_a_line(error), fix) from error


def in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MOST_WORDS]


def providers_for(model: Path, provider: Provider, options: Mapping[str, str]) -> list[tuple[Provider, dict[str, str]]]:
    """With their options, the one that is asked for first."""
    if provider == "CUDAExecutionProvider":
        return [(provider, {**CUDA_OPTIONS, **options})]
    if provider == "TensorrtExecutionProvider":
        return [(provider, {**precisions_of(model), **options}), ("CUDAExecutionProvider", dict(CUDA_OPTIONS))]
    return [(provider, dict(options))]


def precisions_of(model: Path) -> dict[str, str]:
    """What TensorRT must be allowed, beside fp32, to compute a graph as it is written."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.data_type for tensor in graph.initializer}
    allowed = {
        "trt_fp16_enable": onnx.TensorProto.FLOAT16 in weights,
        "trt_bf16_enable": onnx.TensorProto.BFLOAT16 in weights,
        "trt_int8_enable": any(node.op_type == "QuantizeLinear" for node in graph.node),
    }
    return {name: "1" for name, needed in allowed.items() if needed}


def compute_on_the_cpu(session: InferenceSession) -> set[str]:
    """What of COMPUTE a session places on the CPU; it was opened with `session.record_ep_graph_assignment_info`."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == "CPUExecutionProvider"]
    return COMPUTE & {node.op_type for part in parts for node in part.get_nodes()}


def missing_library(provider: Provider) -> str | None:
    """What the system's loader does not find of what a provider needs, in its words."""
    import onnxruntime

    if provider not in LIBRARIES:
        return None
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / LIBRARIES[provider]))
    except OSError as error:
        return str(error) if "cannot open shared object" in str(error) else None
    return None
