"""Calling a served model: a runner over Triton's HTTP or gRPC protocol.

    with Client("127.0.0.1:8000", model="review-sentiment") as client:
        client.predict(["Great camera, awful battery"])      # float32 [1, classes]
        client.classify(["Great camera, awful battery"])     # [[Classification("neutral", 0.71)]]

Whatever goes wrong becomes a ServerError (nobody there, too slow, a dead worker) or a RequestError (the server refused
this request), whichever of its many kinds the client libraries raise.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import RequestError, ServerError, UsageError
from tldeploy.tasks.classification import Row

Protocol = Literal["http", "grpc"]
DEFAULT_URL = {"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001"}
# What Triton answers with when it refuses a request, over HTTP and over gRPC.
REFUSALS = {"400", "404", "413", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND", "StatusCode.OUT_OF_RANGE"}


class Classification(NamedTuple):
    """A label with its probability, by Triton's classification extension (which rounds to six decimals)."""

    label: str
    probability: float


class Client:
    """A model on a Triton server, as a runner.

    url: host:port of the chosen protocol; by default this machine, port 8000 for HTTP and 8001 for gRPC.
    model: the published name.
    timeout_s: how long one request may take.

    Raises ServerError when the server does not answer, RequestError when it does not have the model.
    """

    def __init__(
        self, url: str | None = None, *, model: str, protocol: Protocol = "http", timeout_s: float = 60.0
    ) -> None:
        if protocol not in DEFAULT_URL:
            raise UsageError(f"call a server over {protocol!r}", "there is no such protocol", "choose http or grpc")
        self.url = _checked(url) if url else DEFAULT_URL[protocol]
        self.model, self.protocol, self.timeout_s = model, protocol, timeout_s
        self.name = f"triton {protocol}"
        # HTTP has its timeouts in the connection, gRPC in each call.
        self._timeout = {"client_timeout": timeout_s} if protocol == "grpc" else {}
        self._local = threading.local()
        self._connections: list[Any] = []
        self._lock = threading.Lock()
        try:
            with self._errors(f"reach a Triton server at {self.url}"):
                version = self._metadata(self._connection().get_server_metadata(**self._timeout))["version"]
            with self._errors(f"call {model!r} at {self.url}"):
                config = self._config(model)
                steps = config.get("ensemble_scheduling", {}).get("step", [])
                engine = self._config(steps[-1]["model_name"]) if steps else config
        except BaseException:
            self.close()
            raise
        self.provider = f"Triton {version}, {engine['backend']}"
        self.max_batch_size = int(config.get("max_batch_size", 0)) or 1
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """float32 [rows, classes]; asked for in parts of the model's max_batch_size, one after the other."""
        self._check_rows(rows)
        parts = [self._ask(part, 0) for part in self._parts(rows)]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def classify(self, rows: Sequence[Row], top: int = 1) -> list[list[Classification]]:
        """The `top` most probable labels of each row, best first."""
        self._check_rows(rows)
        answers = [_classification(cell) for part in self._parts(rows) for cell in self._ask(part, top).reshape(-1)]
        each = len(answers) // max(len(rows), 1)
        return [answers[start : start + each] for start in range(0, len(answers), each)] if each else []

    def _check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse what is no list of rows; a single text is a sequence too, of one text for each character."""
        of_images = self._input == "image"
        what = "an image file: its path, or its bytes" if of_images else "a text"
        asked = f"call {self.model!r}"
        fix = (
            'give a list of paths, such as ["shoe.png"]'
            if of_images
            else 'give a list of texts, such as ["Great camera"]'
        )
        if isinstance(rows, str | bytes):
            raise UsageError(asked, f"the rows are a single {'image' if of_images else 'text'}, not a list", fix)
        if not rows:
            raise UsageError(asked, "there are no rows", fix)
        if wrong := [row for row in rows if not isinstance(row, str | bytes if of_images else str)]:
            raise UsageError(asked, f"a row is of type {type(wrong[0]).__name__}, not {what}", fix)

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            while self._connections:
                self._connections.pop().close()
        self._local = threading.local()

    def _parts(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        for start in range(0, len(rows), self.max_batch_size):
            yield rows[start : start + self.max_batch_size]

    def _ask(self, rows: Sequence[Row], class_count: int) -> NDArray[Any]:
        """The output for one batch: probabilities, or `score:index:label` as bytes when class_count > 0."""
        library = self._library()
        given = library.InferInput(self._input, [len(rows), 1], "BYTES")
        # dtype object keeps empty strings and NUL bytes; numpy's own string types cut these off.
        given.set_data_from_numpy(np.array([[self._bytes(row)] for row in rows], dtype=object))
        wanted = library.InferRequestedOutput(self._output, class_count=class_count)
        with self._errors(f"call {self.model!r} at {self.url}"):
            answer = self._connection().infer(self.model, [given], outputs=[wanted], **self._timeout)
            output: NDArray[Any] | None = answer.as_numpy(self._output)
        if output is None:
            found = f"the answer has no output {self._output!r}"
            raise ServerError(f"call {self.model!r} at {self.url}", found, "publish the model again")
        return output

    def _bytes(self, row: Row) -> bytes:
        """What is sent of a row: the text in UTF-8, or the image file's content."""
        if isinstance(row, bytes):
            return row
        if self._input == "image":
            try:
                return Path(row).read_bytes()
            except OSError as error:
                found = f"{row} cannot be read ({error.strerror})"
                raise UsageError(f"call {self.model!r}", found, "give the path of an image file") from None
        try:
            return row.encode("utf-8")
        except UnicodeEncodeError as error:
            found = f"the text has a lone surrogate at character {error.start}, which UTF-8 cannot carry"
            raise RequestError(f"call {self.model!r}", found, "decode the text with its right encoding") from None

    def _library(self) -> Any:
        """tritonclient's module for the protocol; both have the same names."""
        if self.protocol == "http":
            import tritonclient.http as library
        else:
            import tritonclient.grpc as library
        return library

    def _connection(self) -> Any:
        """This thread's connection: tritonclient's are not made to be shared."""
        if not hasattr(self._local, "connection"):
            timeouts = {"connection_timeout": self.timeout_s, "network_timeout": self.timeout_s}
            own = self._library().InferenceServerClient(self.url, **(timeouts if self.protocol == "http" else {}))
            self._local.connection = own
            with self._lock:
                self._connections.append(own)
        return self._local.connection

    def _config(self, model: str) -> dict[str, Any]:
        config = self._metadata(self._connection().get_model_config(model, **self._timeout))
        inner: dict[str, Any] = config.get("config", config)
        return inner

    @staticmethod
    def _metadata(answer: Any) -> dict[str, Any]:
        """What HTTP gives as a dictionary and gRPC as a message, as a dictionary."""
        if isinstance(answer, dict):
            return answer
        from google.protobuf.json_format import MessageToDict

        converted: dict[str, Any] = MessageToDict(answer, preserving_proto_field_name=True)
        return converted

    @contextmanager
    def _errors(self, asked: str) -> Iterator[None]:
        """Turn what the client libraries raise into a ServerError or RequestError."""
        from geventhttpclient.response import HTTPParseError
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except TimeoutError as error:
            raise self._too_slow(asked) from error
        except (OSError, HTTPParseError) as error:
            raise self._unreachable(asked) from error
        except InferenceServerException as error:
            raise self._translated(asked, str(error.message()), str(error.status())) from error

    def _too_slow(self, asked: str) -> ServerError:
        found = f"no answer within {self.timeout_s:g} s"
        return ServerError(asked, found, "look at the server's log, or give the client a longer timeout")

    def _unreachable(self, asked: str) -> ServerError:
        found = f"no server answers at {self.url} over {self.protocol}"
        return ServerError(asked, found, "start it with `tldeploy serve`, and check host, port and protocol")

    def _translated(self, asked: str, message: str, status: str) -> ServerError:
        message = message.strip()
        if "is not healthy" in message:
            found = f"the server says ready but its worker is dead ({message})"
            return ServerError(asked, found, "ask again soon: `tldeploy serve` replaces it; restart another server")
        if status == "StatusCode.DEADLINE_EXCEEDED":
            return self._too_slow(asked)
        if status == "StatusCode.UNAVAILABLE" and ("connect" in message.lower() or "resol" in message.lower()):
            return self._unreachable(asked)
        if "unknown model" in message or "is not found" in message:
            return RequestError(asked, message, "name a model that is published there; `tldeploy serve` prints them")
        if status in REFUSALS:
            return RequestError(asked, message, "correct the request")
        return ServerError(asked, message or f"status {status}", "look at the server's log")


def _checked(url: str) -> str:
    """host:port, as both client libraries want it. Raises UsageError for anything else."""
    host, _, port = url.rpartition(":")
    labels = host.strip("[]").split(".")
    good = "/" not in url and all(label and len(label) < 64 for label in labels) and port.isdecimal()
    if not good or int(port) > 65535:
        raise UsageError("call a server", f"{url!r} is not host:port", "give it like 127.0.0.1:8000, without http://")
    return url


def _classification(cell: bytes) -> Classification:
    """Read `score:index:label`; the label may have colons."""
    score, _, label = cell.decode("utf-8").split(":", 2)
    return Classification(label, float(score))
