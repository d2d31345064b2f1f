"""One request: what the client libraries need to send it, and the array that its answer holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import ServerError

if TYPE_CHECKING:
    from tldeploy.runtime.triton.memory import Region

ALIGNMENT = 64


@dataclass(frozen=True)
class Tensor:
    """What a Triton model takes or gives.

    datatype: the protocol's name of it, such as `INT64`, or `BYTES` for strings. dims: all of them, the batch axis
    included; -1 is open.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        from tritonclient.utils import triton_to_np_dtype

        dtype: np.dtype[Any] = np.dtype(triton_to_np_dtype(self.datatype))
        return dtype


@dataclass(frozen=True)
class Request:
    """One batch for one Triton model, checked and encoded.

    version: of the model; empty for the newest one that is served. inputs: arrays by name; BYTES are arrays of objects.
    output: what is wanted of it, with the dims that it will have. class_count: 0 for the output itself, else so many of
    Triton's `score:index:label`.
    """

    model: str
    version: str
    inputs: Mapping[str, NDArray[Any]]
    output: Tensor
    class_count: int = 0

    def arguments(self, library: Any, region: Region | None = None) -> dict[str, Any]:
        """The arguments of `infer` in a module of tritonclient.

        region: where tensors are put instead of into the request: the output at the start, the inputs behind it.
        """
        from tritonclient.utils import np_to_triton_dtype

        wanted = library.InferRequestedOutput(self.output.name, class_count=self.class_count)
        if region and self._output_bytes:
            wanted.set_shared_memory(region.name, self._output_bytes)
        inputs, offset = [], _aligned(self._output_bytes)
        for (name, array), content in zip(self.inputs.items(), self.contents, strict=True):
            given = library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            if region:
                region.write(offset, content)
                given.set_shared_memory(region.name, content.nbytes, offset)
                offset += _aligned(content.nbytes)
            else:
                given.set_data_from_numpy(array)
            inputs.append(given)
        return {"model_name": self.model, "model_version": self.version, "inputs": inputs, "outputs": [wanted]}

    def read(self, answer: Any, region: Region | None = None) -> NDArray[Any]:
        """The output, out of what `infer` gave; or `score:index:label` as bytes. Raises ServerError when it is absent.

        region: the one that the request's arguments were made with.
        """
        if region and self._output_bytes:
            return region.read(
                self.output.dtype, [int(dim) for dim in plain(answer.get_output(self.output.name))["shape"]]
            )
        output: NDArray[Any] | None = answer.as_numpy(self.output.name)
        if output is None:
            found = f"the answer has no output {self.output.name!r}"
            raise ServerError(f"call {self.model!r}", found, "publish the model again")
        return output

    @property
    def shared_bytes(self) -> int:
        """How large a region must be to hold the inputs, and the output where its size is known."""
        return _aligned(self._output_bytes) + sum(_aligned(content.nbytes) for content in self.contents)

    @property
    def _output_bytes(self) -> int:
        """Bytes of the output; 0 where they are not known before, or Triton puts no such output into a region."""
        if self.class_count or self.output.datatype == "BYTES" or -1 in self.output.dims:
            return 0
        return math.prod(self.output.dims) * self.output.dtype.itemsize

    @cached_property
    def contents(self) -> list[memoryview]:
        """The bytes of each input as they lie in a region: in C order; of BYTES, each after its length."""
        from tritonclient.utils import serialize_byte_tensor

        contents: list[Any] = [
            serialize_byte_tensor(array).item()
            if array.dtype.hasobject
            else np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for array in self.inputs.values()
        ]
        return [memoryview(content) for content in contents]


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def plain(message: Any) -> dict[str, Any]:
    """What HTTP gives as a dictionary and gRPC as a message, as a dictionary."""
    if isinstance(message, dict):
        return message
    from google.protobuf.json_format import MessageToDict

    converted: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return converted
