"""A graph whose inputs and output have memory of their own on the device where it runs.

`session.run` allocates for every request, there and back. Here each shape that comes gets its memory once, the
request's values are copied into it, and onnxruntime is told to read and to write there (I/O binding). That is also what
a CUDA graph needs: the launches of all kernels are recorded at the first run of a shape, and replayed as one at every
later one, from and to the same addresses (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).
onnxruntime keeps what it recorded with the thread that ran it: where several threads ask, one runs for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Shapes that have memory, and on a GPU a captured graph. Padded lengths are few; of batches times lengths some may be
# rare, and these run without.
MOST_SHAPES = 64
NO_CAPTURE = "-1"

Shape = tuple[tuple[int, ...], ...]


class BoundGraph:
    """Runs an open session on memory that is bound once for each shape; safe to call from several threads, in turns.

    output: its name, of float32 [rows, classes]. device: where the session runs. captures: whether the session was
    opened with `enable_cuda_graph`, so that each shape is a CUDA graph.
    """

    def __init__(
        self,
        session: InferenceSession,
        output: str,
        classes: int,
        device: Literal["cpu", "cuda"] = "cuda",
        device_id: int = 0,
        captures: bool = False,
    ) -> None:
        self._session, self._output, self._classes = session, output, classes
        self._place = device, device_id
        self._captures = captures
        self._bound: dict[Shape, _Bound] = {}
        self._lock = threading.Lock()
        self._first: int | None = None
        self._runs_all: ThreadPoolExecutor | None = None

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Encoded rows in, float32 [rows, classes] out."""
        runs_all = self._thread_for_all() if self._captures else None
        return self._run(tensors) if runs_all is None else runs_all.submit(self._run, tensors).result()

    def _thread_for_all(self) -> ThreadPoolExecutor | None:
        """None as long as a single thread has asked, which is saved handing over and waiting for the answer."""
        with self._lock:
            asking = threading.get_ident()
            self._first = self._first or asking
            if self._runs_all is None and asking != self._first:
                self._runs_all = ThreadPoolExecutor(1, thread_name_prefix="captured")
            return self._runs_all

    def _run(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        shape = _shape(tensors)
        with self._lock:
            if shape not in self._bound and len(self._bound) >= MOST_SHAPES:
                found: NDArray[np.float32] = self._session.run([self._output], dict(tensors), self._options(None))[0]
                return found
            bound = self._of(shape, tensors)
            for name, values in tensors.items():
                bound.inputs[name].update_inplace(np.ascontiguousarray(values))
            self._session.run_with_iobinding(bound.binding, bound.options)
            return np.array(bound.output.numpy())

    def bound(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
        """The binding of their shape, with them in its memory, and the options of its runs: for timing a run alone."""
        self.run(tensors)
        bound = self._of(_shape(tensors), tensors)
        return bound.binding, bound.options

    def _of(self, shape: Shape, tensors: Mapping[str, NDArray[Any]]) -> _Bound:
        if shape not in self._bound:
            self._bound[shape] = self._bind(tensors)
        return self._bound[shape]

    def _bind(self, tensors: Mapping[str, NDArray[Any]]) -> _Bound:
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        # Copied: on the CPU an OrtValue is the array that it is made of, and what belongs to the caller stays as it is.
        inputs = {
            name: OrtValue.ortvalue_from_numpy(np.array(values), *self._place) for name, values in tensors.items()
        }
        rows = len(next(iter(tensors.values())))
        output = OrtValue.ortvalue_from_shape_and_type((rows, self._classes), np.float32, *self._place)
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self._output, output)
        return _Bound(binding, inputs, output, self._options(len(self._bound) + 1))

    def _options(self, number: int | None) -> Any:
        """number: of the captured graph; None for a run that is not captured."""
        from onnxruntime import RunOptions

        options = RunOptions()
        if self._captures:
            options.add_run_config_entry("gpu_graph_id", NO_CAPTURE if number is None else str(number))
        return options


def _shape(tensors: Mapping[str, NDArray[Any]]) -> Shape:
    return tuple(tensors[name].shape for name in sorted(tensors))


class _Bound:
    """The memory of one shape."""

    def __init__(self, binding: Any, inputs: dict[str, Any], output: Any, options: Any) -> None:
        self.binding, self.inputs, self.output, self.options = binding, inputs, output, options
