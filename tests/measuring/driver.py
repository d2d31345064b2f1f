"""The library of an NVIDIA driver as a stand-in: two GPUs, of which the second tells nothing but its name."""

from __future__ import annotations

import ctypes
from typing import Any

FIRST = 100
NOT_SUPPORTED, TOO_SMALL = 3, 7
UUIDS = {FIRST: b"GPU-first", FIRST + 1: b"GPU-second"}


def no_driver(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


class Nvml:
    """What a test sets is what the first GPU tells. processes: bytes by pid, None for one whose memory is not told."""

    def __init__(self) -> None:
        self.millijoules, self.percent, self.used = 1000, 0, 0
        self.processes: dict[int, int | None] = {}

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: ctypes.c_uint, device: Any) -> int:  # noqa: N802
        device._obj.value = FIRST + number.value
        return 0

    def nvmlDeviceGetUUID(self, device: ctypes.c_void_p, text: Any, size: ctypes.c_uint) -> int:  # noqa: N802
        text.value = UUIDS[device.value or 0]
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: ctypes.c_void_p, millijoules: Any) -> int:  # noqa: N802
        millijoules._obj.value = self.millijoules
        return self._told(device)

    def nvmlDeviceGetUtilizationRates(self, device: ctypes.c_void_p, rates: Any) -> int:  # noqa: N802
        rates._obj.gpu = self.percent
        return self._told(device)

    def nvmlDeviceGetMemoryInfo(self, device: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        memory._obj.used = self.used
        return self._told(device)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: ctypes.c_void_p, count: Any, listed: Any) -> int:  # noqa: N802
        room, count._obj.value = count._obj.value, len(self.processes)
        if room < len(self.processes):
            return TOO_SMALL
        for place, (pid, used) in zip(listed, self.processes.items(), strict=False):
            place.pid, place.used = pid, 2**64 - 1 if used is None else used
        return self._told(device)

    def _told(self, device: ctypes.c_void_p) -> int:
        return 0 if device.value == FIRST else NOT_SUPPORTED
