"""Calling a served model and waiting for its answer."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import RequestError, ServerError
from tldeploy.runtime.triton.address import Address, Protocol, closed, key_headers
from tldeploy.runtime.triton.memory import SharedMemory
from tldeploy.runtime.triton.request import Request, plain
from tldeploy.runtime.triton.served import (
    Classification,
    Served,
    classifications,
    configuration,
    next_model,
    probabilities,
)
from tldeploy.runtime.triton.statistics import Counted, counted
from tldeploy.tasks.classification import Row


class Client:
    """A model on a Triton server, as a runner; safe to use from several threads at once.

    url: host:port of the chosen protocol, also as http://host:port, or https://host:port for TLS; by default this
    machine, port 8000 for HTTP and 8001 for gRPC.
    model: the published name.
    timeout_s: how long one request may take.
    shared_memory: put tensors into memory that the server, on this machine, shares with us, instead of sending them.
    key: the server's, without which it shares no memory; by default the environment variable TLDEPLOY_KEY.
    ca: certificates that vouch for the server, a PEM file; by default those that the machine trusts.
    api_key: what a server that others can reach may want to see; by default the environment variable TLDEPLOY_API_KEY.

    Raises ServerError when the server does not answer, or shares no memory, RequestError when it does not have the
    model.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        model: str,
        protocol: Protocol = "http",
        timeout_s: float = 60.0,
        shared_memory: bool = False,
        key: str | None = None,
        ca: str | Path | None = None,
        api_key: str | None = None,
    ) -> None:
        self.address = Address.of(url, protocol, timeout_s, ca, api_key)
        self.url, self.model, self.protocol, self.timeout_s = self.address.url, model, protocol, timeout_s
        self.name = f"triton {protocol}{' shared memory' if shared_memory else ''}"
        self.shared_memory, self.key = shared_memory, key
        self._asked = f"call {model!r} at {self.url}"
        self._library = importlib.import_module(f"tritonclient.{protocol}")
        self._options = self.address.connection_options()
        self._local = threading.local()
        self._connections: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False
        shown = key_headers(protocol, key)
        self._memory = SharedMemory(partial(self._ask, headers=shown)) if shared_memory else None
        try:
            self._learn(self._describe())
            if self._memory:
                self._check_memory(self._memory)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Probabilities of texts, or of image files (paths or bytes): float32 [rows, classes].

        More rows than the model's max_batch_size are asked for in parts, one after the other.

        Raises UsageError for what is no list of rows, DataError for bytes that were no UTF-8 (surrogate escapes),
        RequestError and ServerError.
        """
        return probabilities(self._answers(lambda served: served.row_requests(rows)))

    def predict_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Probabilities of rows that are encoded already, by the graph alone: float32 [rows, classes].

        tensors: by name, what the graph takes; they are the version's that was live when the client was made, for as
        long as it is served.

        Raises UsageError that names all wrong names, dtypes and shapes, RequestError and ServerError.
        """
        return probabilities(self._answers(lambda served: served.tensor_requests(tensors)))

    def classify(self, rows: Sequence[Row], top: int = 1) -> list[list[Classification]]:
        """The `top` most probable labels of each row, best first. Raises as `predict` does, UsageError for no `top`."""
        answers = self._answers(lambda served: served.row_requests(rows, top))
        return classifications(answers, len(rows))

    def requests(self, rows: Sequence[Row]) -> list[Request]:
        """What `predict` asks for the rows, one for each part, unasked. Raises UsageError and RequestError."""
        return self._served.row_requests(rows)

    @property
    def steps(self) -> tuple[str, ...]:
        """The models on the server that a request goes through, in order."""
        return self._served.steps

    def statistics(self) -> dict[str, Counted]:
        """What the server counted, by model; some 100 ms behind its replies."""
        return counted(plain(self._ask("get_inference_statistics")))

    def close(self) -> None:
        """Give back what is shared with the server, and close the connections of all threads."""
        if self._memory:
            self._memory.close()
        with self._lock:
            self._closed = True
            while self._connections:
                self._connections.pop().close()

    def _describe(self) -> Served:
        server = plain(self._ask("get_server_metadata"))
        configs = [configuration(self._ask("get_model_config", self.model))]
        while behind := next_model(configs[-1]):
            configs.append(configuration(self._ask("get_model_config", behind[0])))
        return Served.of(server["version"], configs)

    def _check_memory(self, memory: SharedMemory) -> None:
        """Raise ServerError unless the server takes a region of ours: one elsewhere cannot find it."""
        try:
            with memory.region(1):
                pass
        except ServerError as error:
            fix = "run the client on the server's machine (in Docker, with --ipc=host), or without shared_memory"
            if "restricted" in error.found:
                fix = "give it the server's key (key=, or TLDEPLOY_KEY), or do without shared_memory"
            raise ServerError(f"share memory with the server at {self.url}", error.found, fix) from error

    def _learn(self, served: Served) -> None:
        self._served = served
        self.provider, self.max_batch_size = served.provider, served.rows.max_batch_size or 1

    def _answers(self, requests: Callable[[Served], list[Request]]) -> list[NDArray[Any]]:
        """The answers to the parts of one call. What is refused is asked again if another version is live by now."""
        known = self._served
        try:
            return [self._infer(request) for request in requests(known)]
        except RequestError:
            if (now := self._describe()) == known:
                raise
            self._learn(now)
            return [self._infer(request) for request in requests(now)]

    def _infer(self, request: Request) -> NDArray[Any]:
        if self._memory is None:
            return request.read(self._ask("infer", **request.arguments(self._library)))
        with self._memory.region(request.shared_bytes) as region:
            return request.read(self._ask("infer", **request.arguments(self._library, region)), region)

    def _ask(self, method: str, *positional: Any, headers: Mapping[str, str] | None = None, **named: Any) -> Any:
        """What the server answers to a method of tritonclient, over this thread's connection."""
        with self.address.errors(self._asked):
            return getattr(self._connection(), method)(*positional, **named, **self.address.call_options(headers))

    def _connection(self) -> Any:
        """This thread's connection: tritonclient's are not made to be shared."""
        if self._closed:
            raise closed(self._asked)
        if not hasattr(self._local, "connection"):
            own = self._local.connection = self._library.InferenceServerClient(self.url, **self._options)
            with self._lock:
                self._connections.append(own)
        return self._local.connection
