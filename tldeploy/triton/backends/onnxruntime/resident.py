"""Tensors that stay on a device: taken over by DLPack, run by I/O binding, and given back the same way.

A request has such inputs where they come from another model on the GPU or from CUDA shared memory, and the
configuration has FORCE_CPU_ONLY_INPUT_TENSORS off. A request that is run by itself then makes no copy through the host;
what it has there besides is copied to the device. Requests that share a run are joined on the host, for neither numpy
nor onnxruntime joins what lies on a device.

Nobody has to wait for another's stream: Triton hands over tensors that nothing writes to any more, and onnxruntime ends
a run by waiting for its own stream (unless `disable_synchronize_execution_providers` says otherwise). Whoever takes a
tensor over keeps its memory: an input's is Triton's until the value is gone, an output's is the session's until Triton,
which copies it to where the request wants it, drops the capsule.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

# DLPack has no strings; onnxruntime hands a bool over as a byte, which Triton would take for a number.
ONLY_ON_THE_HOST = {"tensor(string)", "tensor(bool)"}
# Of dlpack.h: where DLTensor has the code of its type, behind the data's address, the device and the number of dims;
# and the code of unsigned integers.
TYPE_CODE, UNSIGNED = 20, 1


class Resident:
    """A tensor in the memory of a device."""

    def __init__(self, value: ort.OrtValue) -> None:
        self.value = value
        self.shape: tuple[int, ...] = tuple(value.shape())
        self.ndim = len(self.shape)

    @classmethod
    def of(cls, tensor: Any, kind: str) -> Resident:
        """tensor: as Triton hands it over. kind: onnxruntime's name of its type."""
        return cls(ort.OrtValue.from_dlpack(_Handed(tensor, kind.removeprefix("tensor(").removesuffix(")"))))

    def __len__(self) -> int:
        return self.shape[0]

    def to_dlpack(self) -> Any:
        return self.value.__dlpack__()


class _Handed:
    """A tensor of Triton as onnxruntime takes it, to which a bool in DLPack is a byte, and `dtype` says what it is."""

    def __init__(self, tensor: Any, dtype: str) -> None:
        self._tensor, self.dtype = tensor, dtype

    def __dlpack__(self) -> Any:
        capsule = self._tensor.to_dlpack()
        if self.dtype == "bool":
            ctypes.c_uint8.from_address(_pointer(capsule, b"dltensor") + TYPE_CODE).value = UNSIGNED
        return capsule


def _pointer(capsule: Any, name: bytes) -> int:
    """The address of the DLManagedTensor in a capsule."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    found: int = get(capsule, name)
    return found


def on_host(array: Any) -> Any:
    """As a numpy array. Raises RuntimeError for bfloat16 on a device, which numpy has not."""
    return array.value.numpy() if isinstance(array, Resident) else array


def any_resident(feed: Mapping[str, Any]) -> bool:
    return any(isinstance(array, Resident) for array in feed.values())


def places(kinds: Mapping[str, str], device: str) -> dict[str, str]:
    """Where each output is to lie, by its type: on the device, or on the host what cannot be handed on there."""
    return {name: "cpu" if kind in ONLY_ON_THE_HOST else device for name, kind in kinds.items()}


def run_bound(
    session: ort.InferenceSession, feed: Mapping[str, ort.OrtValue], outputs: Mapping[str, str], number: int,
    options: ort.RunOptions,
) -> list[Resident | ort.OrtValue]:  # fmt: skip
    """The outputs, each on its device with that number; inputs lie there already, or are copied there.

    Those on the host are values, the others Resident.
    """
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, value)
    for name, device in outputs.items():
        binding.bind_output(name, device, 0 if device == "cpu" else number)
    session.run_with_iobinding(binding, options)
    found = zip(outputs.values(), binding.get_outputs(), strict=True)
    return [value if device == "cpu" else Resident(value) for device, value in found]
