"""onnxruntime sessions that run where they were asked to, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tldeploy.environment import usable_cores
from tldeploy.errors import ArtifactError, MachineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

Provider = Literal[
    "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider", "OpenVINOExecutionProvider"
]


def open_session(
    model: Path, provider: Provider = "CPUExecutionProvider", options: SessionOptions | None = None
) -> InferenceSession:
    """A session whose first provider is verified to be `provider`; it runs on all usable cores.

    options: what a caller wants besides, such as a profile.

    Raises MachineError when the provider is not to be had, instead of falling back, ArtifactError for a model that
    onnxruntime cannot read.
    """
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    asked = f"run {model.name} on {provider}"
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split()).replace(f"Load model from {model} failed:", "")[:300]
        if provider == "CPUExecutionProvider":
            raise ArtifactError(asked, reason, "export the model again") from error
        raise MachineError(asked, reason, "see `tldeploy doctor`, or use the CPU") from error
    used = session.get_providers()
    if used[0] != provider:
        fix = "see `tldeploy doctor` for the driver and libraries it needs, or use the CPU"
        raise MachineError(asked, f"onnxruntime would use {', '.join(used)} instead", fix)
    return session
