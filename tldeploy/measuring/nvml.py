"""What an NVIDIA GPU says of itself: energy, utilisation and memory, by the driver's own library, NVML.

The library is loaded by ctypes, for it comes with the driver and not by pip. A GPU that does not tell something, as in
a slice of one (MIG), raises OSError that says what.

    gpu = find_gpus()[0]
    memory = Memory(gpu)
    with memory.growing():
        engine = open_engine()
    with utilisation(gpu) as percents:
        engine.ask()
    memory.mb(engine.pid), percents

https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

NVML = "libnvidia-ml.so.1"
NOT_TOLD = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE, for the memory of a process
TOO_SMALL = 7  # NVML_ERROR_INSUFFICIENT_SIZE: the list holds more than there was room for
UNKNOWN = 13  # NVML_ERROR_FUNCTION_NOT_FOUND: the driver is older than the function
# The driver's figure is of a past period, which is between a sixth of a second and a second long on each model.
PERIOD_S, SAMPLE_EVERY_S = 1.0, 0.1
MB = 1_000_000


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t, as nvmlDeviceGetComputeRunningProcesses_v3 fills it."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Gpu:
    """A GPU, by its number in the driver's order. Everything read raises OSError where it is not told."""

    def __init__(self, nvml: Any, number: int) -> None:
        self.name, self._nvml, self._handle = f"gpu {number}", nvml, ctypes.c_void_p()
        self._handle_failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(self._handle))

    @property
    def uuid(self) -> str:
        """As in `GPU-3f2c…`."""
        text = ctypes.create_string_buffer(96)
        self._ask("UUID", text, ctypes.c_uint(len(text)))
        return text.value.decode("ascii")

    def energy_j(self) -> float:
        """Joules since the driver was loaded; from Volta on."""
        millijoules = ctypes.c_ulonglong()
        self._ask("TotalEnergyConsumption", ctypes.byref(millijoules))
        return millijoules.value / 1000

    def busy_percent(self) -> int:
        """Of the last period, how much of the time at least one kernel was running."""
        rates = _Utilisation()
        self._ask("UtilizationRates", ctypes.byref(rates))
        return int(rates.gpu)

    def used_mb(self) -> float:
        """Memory that is taken on the GPU, by whomever, in 10^6 bytes."""
        memory = _Memory()
        self._ask("MemoryInfo", ctypes.byref(memory))
        return float(memory.used / MB)

    def used_mb_of(self, pid: int) -> float | None:
        """Memory of one process; None where the driver does not name it: a container numbers processes anew."""
        count = ctypes.c_uint(64)
        while True:
            listed = (_Process * count.value)()
            failed = self._call("ComputeRunningProcesses_v3", ctypes.byref(count), listed)
            if failed != TOO_SMALL:
                break
            count.value += 16  # others may start meanwhile
        if failed:
            return None
        found = [each.used for each in listed[: count.value] if each.pid == pid and each.used != NOT_TOLD]
        return sum(found) / MB if found else None

    def _ask(self, what: str, *into: Any) -> None:
        if self._call(what, *into):
            raise OSError(f"NVML does not tell the {what} of {self.name}")

    def _call(self, what: str, *into: Any) -> int:
        function = getattr(self._nvml, f"nvmlDeviceGet{what}", None)
        return int(self._handle_failed or (UNKNOWN if function is None else function(self._handle, *into)))


def find_gpus(load: Callable[[str], Any] = ctypes.CDLL) -> list[Gpu]:
    """All that the driver sees, whatever CUDA_VISIBLE_DEVICES says. load: opens NVML, or raises OSError.

    Raises OSError where there is no driver, or where it does not start.
    """
    nvml, count = load(NVML), ctypes.c_uint()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        raise OSError(f"{NVML} is there, and finds no driver that it can talk to")
    return [Gpu(nvml, number) for number in range(count.value)]


@contextlib.contextmanager
def utilisation(gpu: Gpu, after_s: float = PERIOD_S, every_s: float = SAMPLE_EVERY_S) -> Iterator[list[int]]:
    """A list that fills with the GPU's `busy_percent` while the block runs, from `after_s` on: before that, the
    driver's period reaches back to what ran earlier. It stays empty where the block is shorter, or nothing is told."""
    percents: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        wait = after_s
        with contextlib.suppress(OSError):
            while not ended.wait(wait):
                percents.append(gpu.busy_percent())
                wait = every_s

    sampling = threading.Thread(target=sample, daemon=True)
    sampling.start()
    try:
        yield percents
    finally:
        ended.set()
        sampling.join()


class Memory:
    """The memory of an engine on a GPU that others use as well: what its process has, or where the driver does not name
    that, what was added while the engine alone was at work."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._grown_mb = gpu, 0.0

    @contextlib.contextmanager
    def growing(self) -> Iterator[None]:
        """Around what the engine does while nothing else takes memory or gives it back."""
        before = self._gpu.used_mb()
        try:
            yield
        finally:
            self._grown_mb += self._gpu.used_mb() - before

    def mb(self, pid: int) -> float:
        own = self._gpu.used_mb_of(pid)
        return self._grown_mb if own is None else own
