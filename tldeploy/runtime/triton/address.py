"""Where a server is, and what it means when it does not answer as it should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tldeploy.errors import RequestError, ServerError, UsageError

Protocol = Literal["http", "grpc"]
DEFAULT_URL = {"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001"}
# The server's key opens the protocols that it keeps for its owner; one set in the environment need not be given.
KEY_HEADER = "tldeploy-key"
KEY_VARIABLE = "TLDEPLOY_KEY"
# What Triton answers with when it refuses a request, over HTTP and over gRPC.
REFUSALS = {"400", "404", "413", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND", "StatusCode.OUT_OF_RANGE"}
# What gRPC says when the connection, not the server, is the trouble.
NO_CONNECTION = ("connect", "resol", "socket closed", "goaway")


def key_headers(protocol: Protocol, key: str | None = None) -> dict[str, str]:
    """The headers that show a server's key, by default the one of the environment; none where there is no key."""
    key = key or os.environ.get(KEY_VARIABLE)
    name = KEY_HEADER if protocol == "http" else f"triton-grpc-protocol-{KEY_HEADER}"
    return {name: key} if key else {}


@dataclass(frozen=True)
class Address:
    """A server's host:port for one protocol, and how long one request there may take."""

    url: str
    protocol: Protocol
    timeout_s: float

    @classmethod
    def of(cls, url: str | None, protocol: Protocol, timeout_s: float) -> Address:
        """url: by default this machine, port 8000 for HTTP and 8001 for gRPC. Raises UsageError for what is none."""
        if protocol not in DEFAULT_URL:
            raise UsageError(f"call a server over {protocol!r}", "there is no such protocol", "choose http or grpc")
        return cls(_checked(url) if url else DEFAULT_URL[protocol], protocol, timeout_s)

    @property
    def call_options(self) -> dict[str, Any]:
        """HTTP has its timeouts in the connection, gRPC in each call."""
        return {"client_timeout": self.timeout_s} if self.protocol == "grpc" else {}

    @contextmanager
    def errors(self, asked: str) -> Iterator[None]:
        """Turn what the client libraries raise into a ServerError or RequestError."""
        try:
            yield
        except TimeoutError as error:
            raise self._too_slow(asked) from error
        except OSError as error:
            raise self._unreachable(asked) from error
        except Exception as error:
            if translated := self._translated(asked, error):
                raise translated from error
            raise

    def _translated(self, asked: str, error: Exception) -> ServerError | None:
        from aiohttp import ClientError
        from geventhttpclient.response import HTTPParseError
        from tritonclient.utils import InferenceServerException

        if isinstance(error, ClientError | HTTPParseError):
            return self._unreachable(asked)
        if isinstance(error, InferenceServerException):
            return self._answered(asked, str(error.message()).strip(), str(error.status()))
        return None

    def _answered(self, asked: str, message: str, status: str) -> ServerError:
        if "is not healthy" in message:
            found = f"the server says ready but its worker is dead ({message})"
            return ServerError(asked, found, "ask again soon: `tldeploy serve` replaces it; restart another server")
        if status == "StatusCode.DEADLINE_EXCEEDED":
            return self._too_slow(asked)
        if status == "StatusCode.UNAVAILABLE" and any(words in message.lower() for words in NO_CONNECTION):
            return self._unreachable(asked)
        if "unknown model" in message or "is not found" in message:
            return RequestError(asked, message, "name a model that is published there; `tldeploy serve` prints them")
        if status in REFUSALS:
            return RequestError(asked, message, "correct the request")
        return ServerError(asked, message or f"status {status}", "look at the server's log")

    def _too_slow(self, asked: str) -> ServerError:
        found = f"no answer within {self.timeout_s:g} s"
        return ServerError(asked, found, "look at the server's log, or give the client a longer timeout")

    def _unreachable(self, asked: str) -> ServerError:
        found = f"no server answers at {self.url} over {self.protocol}"
        return ServerError(asked, found, "start it with `tldeploy serve`, and check host, port and protocol")


def closed(asked: str) -> UsageError:
    """The error of who uses a client outside its `with` block."""
    return UsageError(asked, "the client is closed", "use it inside its `with` block")


def _checked(url: str) -> str:
    """host:port, as both client libraries want it. Raises UsageError for anything else."""
    host, _, port = url.rpartition(":")
    labels = host.strip("[]").split(".")
    good = "/" not in url and all(label and len(label) < 64 for label in labels) and port.isdecimal()
    if not good or int(port) > 65535:
        raise UsageError("call a server", f"{url!r} is not host:port", "give it like 127.0.0.1:8000, without http://")
    return url
