"""NVIDIA's driver as a stand-in: what `devices` loads instead of libcuda.so.1, on machines without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tldeploy import devices

# Refusals are tested where they are real.
without_gpu = pytest.mark.skipif(devices.lacking("cuda") is None, reason="this machine has a GPU")


@dataclass
class StandIn:
    """The four functions that are asked. init: the code that cuInit gives. version: as CUDA writes 13.1."""

    init: int = 0
    name: bytes = b"CUDA_SUCCESS"
    gpus: int = 1
    version: int = 13010

    def cuInit(self, flags: int) -> int:  # noqa: N802 — NVIDIA's names
        return self.init

    def cuGetErrorName(self, code: int, name: Any) -> int:  # noqa: N802
        name._obj.value = self.name
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.version
        return 0


def loading(driver: StandIn, *there: str) -> Callable[[str], Any]:
    """Loads the stand-in for the driver, and takes the libraries in `there` to be on this machine."""

    def load(name: str) -> Any:
        if name == devices.DRIVER:
            return driver
        return object() if name in there else ctypes.CDLL(name)

    return load
