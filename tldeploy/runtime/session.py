"""onnxruntime sessions that run where they were asked to, or not at all."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tldeploy.devices import preload
from tldeploy.environment import usable_cores
from tldeploy.errors import ArtifactError, MachineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

Provider = Literal[
    "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider", "OpenVINOExecutionProvider"
]

# What a network spends its time on. Other nodes may be left to the CPU: the CUDA provider wants the arithmetic on
# shapes there, and `session.disable_cpu_ep_fallback` refuses that as well (microsoft/onnxruntime#17930).
COMPUTE = {"Attention", "Conv", "Gemm", "LayerNormalization", "MatMul", "MatMulNBits", "MultiHeadAttention", "Softmax"}
LIBRARIES = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}


def open_session(
    model: Path,
    provider: Provider = "CPUExecutionProvider",
    options: SessionOptions | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> InferenceSession:
    """A session whose first provider is verified to be `provider`, with all of COMPUTE on it; it runs on all cores.

    options: what a caller wants besides, such as a profile. provider_options: as onnxruntime documents them.

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
        session = onnxruntime.InferenceSession(
            str(model), options, providers=[(provider, dict(provider_options or {}))]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split()).replace(f"Load model from {model} failed:", "")[:300]
        if provider == "CPUExecutionProvider":
            raise ArtifactError(asked, reason, "export the model again") from error
        raise MachineError(asked, reason, "see `tldeploy doctor`, or use the CPU") from error
    used = session.get_providers()
    if used[0] != provider:
        fix = "see `tldeploy doctor` for the driver and libraries it needs, or use the CPU"
        found = missing_library(provider) or f"onnxruntime would use {', '.join(used)} instead"
        raise MachineError(asked, found, fix)
    if provider != "CPUExecutionProvider" and (left := compute_on_the_cpu(session)):
        found = f"it would leave {', '.join(sorted(left))} to the CPU"
        raise MachineError(asked, found, "leave this variant out, or use the CPU")
    return session


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
