"""A GPU whose memory is full, as a stand-in: sessions on the CPU that fail as onnxruntime does there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as own

from tldeploy.runtime.session import open_session

FULL = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul node. "
    "Name:'backbone.encoder.layer.0.attention.self.query/MatMul_42' Status Message: \n"
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal("
    "size_t, bool, onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) "
    "Failed to allocate memory for requested buffer of size 8388608000\n"
)


class FullGpu:
    """A session that runs `after` times."""

    def __init__(self, session: Any, after: int) -> None:
        self.session, self.left = session, after

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", *self.session.get_providers()]

    def io_binding(self) -> Any:
        return self.session.io_binding()

    def run(self, *given: Any) -> Any:
        if self.left == 0:
            raise own.RuntimeException(FULL)
        self.left -= 1
        return self.session.run(*given)


def on_a_full_gpu(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Each OnnxRunner that is opened from now on gets such a session."""

    def opened(model: Path, *_: Any, **__: Any) -> FullGpu:
        return FullGpu(open_session(model), after)

    monkeypatch.setattr("tldeploy.runtime.onnx.open_session", opened)
