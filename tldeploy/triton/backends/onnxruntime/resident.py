"""Tensors that stay on a device: taken over by DLPack, run by I/O binding, and given back the same way.

A request has such inputs where they come from another model on the GPU or from CUDA shared memory, and the
configuration has FORCE_CPU_ONLY_INPUT_TENSORS off. A request that is run by itself then makes no copy through the host.
Requests that share a run are joined on the host, for neither numpy nor onnxruntime joins what lies on a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort


class Resident:
    """A tensor in the memory of a device."""

    def __init__(self, value: ort.OrtValue) -> None:
        self.value = value
        self.shape: tuple[int, ...] = tuple(value.shape())
        self.ndim = len(self.shape)

    @classmethod
    def of(cls, tensor: Any) -> Resident:
        """tensor: as Triton hands it over."""
        return cls(ort.OrtValue.from_dlpack(tensor.to_dlpack()))

    def __len__(self) -> int:
        return self.shape[0]

    def to_dlpack(self) -> Any:
        return self.value._ortvalue.to_dlpack()


def on_host(array: Any) -> Any:
    """As a numpy array."""
    return array.value.numpy() if isinstance(array, Resident) else array


def all_resident(feed: Mapping[str, Any]) -> bool:
    return all(isinstance(array, Resident) for array in feed.values())


def run_resident(
    session: ort.InferenceSession, feed: Mapping[str, Resident], outputs: Sequence[str], device: str, number: int,
    options: ort.RunOptions,
) -> list[Resident]:  # fmt: skip
    """The outputs, on the device with that name and number, of inputs that are there already."""
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, array.value)
    for name in outputs:
        binding.bind_output(name, device, number)
    session.run_with_iobinding(binding, options)
    return [Resident(value) for value in binding.get_outputs()]
