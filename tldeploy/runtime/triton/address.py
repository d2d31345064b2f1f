"""Where a server is, and what it means when it does not answer as it should."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tldeploy.errors import RequestError, ServerError, UsageError

Protocol = Literal["http", "grpc"]
DEFAULT_URL = {"http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001"}
# The server's key opens the protocols that it keeps for its owner; one set in the environment need not be given.
KEY_HEADER = "tldeploy-key"
KEY_VARIABLE = "TLDEPLOY_KEY"
API_KEY_VARIABLE = "TLDEPLOY_API_KEY"
PLAIN_SCHEME, TLS_SCHEME = "http://", "https://"
PROBED_WITHIN_S = 1.0
# What Triton, or the gate before it, says or answers with when it refuses a request, and what to do then.
CORRECT, PUBLISHED = "correct the request", "name a model that is published there; `tldeploy serve` prints them"
SHOW_KEY = "give one of the API keys that the server takes (api_key=, or TLDEPLOY_API_KEY)"
REFUSALS = {
    "401": SHOW_KEY,
    "StatusCode.UNAUTHENTICATED": SHOW_KEY,
    "request is larger than": "send fewer or smaller rows at a time",
    "bytes, the limit is": "shorten the text, or split it into several",
    "unknown model": PUBLISHED,
    "is not found": PUBLISHED,
    "400": CORRECT,
    "404": CORRECT,
    "413": CORRECT,
    "415": CORRECT,
    "StatusCode.INVALID_ARGUMENT": CORRECT,
    "StatusCode.NOT_FOUND": CORRECT,
    "StatusCode.OUT_OF_RANGE": CORRECT,
}
# What writing to a server that closes the connection ends with; over HTTP a gate may do so to a request too large.
CUT_OFF = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)
# What gRPC says when the connection, not the server, is the trouble.
NO_CONNECTION = ("connect", "resol", "socket closed", "goaway")


def key_headers(protocol: Protocol, key: str | None = None) -> dict[str, str]:
    """The headers that show a server's key, by default the one of the environment; none where there is no key."""
    key = key or os.environ.get(KEY_VARIABLE)
    name = KEY_HEADER if protocol == "http" else f"triton-grpc-protocol-{KEY_HEADER}"
    return {name: key} if key else {}


@dataclass(frozen=True)
class Address:
    """A server's host:port for one protocol, and how long one request there may take.

    has_tls: nobody can read or change what goes there and back. ca: the certificates that vouch for the server, a PEM
    file; None for those that the machine trusts. api_key: what the gate before the server wants to see.
    """

    url: str
    protocol: Protocol
    timeout_s: float
    has_tls: bool = False
    ca: str | None = None
    api_key: str | None = None

    @classmethod
    def of(
        cls,
        url: str | None,
        protocol: Protocol,
        timeout_s: float,
        ca: str | Path | None = None,
        api_key: str | None = None,
    ) -> Address:
        """url: by default this machine, port 8000 for HTTP and 8001 for gRPC. Raises UsageError for what is none.

        api_key: by default the environment variable TLDEPLOY_API_KEY.
        """
        if protocol not in DEFAULT_URL:
            raise UsageError(f"call a server over {protocol!r}", "there is no such protocol", "choose http or grpc")
        url = url or DEFAULT_URL[protocol]
        has_tls = url.startswith(TLS_SCHEME)
        if ca is not None:
            _check_ca(Path(ca), has_tls)
        trusted, api_key = str(ca) if ca else None, api_key or os.environ.get(API_KEY_VARIABLE)
        place = _checked(url.removeprefix(TLS_SCHEME).removeprefix(PLAIN_SCHEME).removesuffix("/"))
        return cls(place, protocol, timeout_s, has_tls, trusted, api_key)

    def connection_options(self, asyncio: bool = False) -> dict[str, Any]:
        """What tritonclient's InferenceServerClient of this protocol is made with."""
        if self.protocol == "grpc":
            return {"ssl": True, "root_certificates": self.ca} if self.has_tls else {}
        if asyncio:
            context = {"ssl_context": ssl.create_default_context(cafile=self.ca)} if self.has_tls else {}
            return {"conn_timeout": self.timeout_s, "ssl": self.has_tls, **context}
        timeouts = {"connection_timeout": self.timeout_s, "network_timeout": self.timeout_s}
        trusted = {"ssl_options": {"ca_certs": self.ca}} if self.ca else {}
        return {**timeouts, "ssl": self.has_tls, **trusted}

    def call_options(self, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What each call of tritonclient is given: HTTP has its timeouts in the connection, gRPC in each call."""
        options: dict[str, Any] = {"client_timeout": self.timeout_s} if self.protocol == "grpc" else {}
        shown = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {**options, "headers": {**shown, **(headers or {})}} if shown or headers else options

    @contextmanager
    def errors(self, asked: str) -> Iterator[None]:
        """Turn what the client libraries raise into a ServerError or RequestError."""
        try:
            yield
        except TimeoutError as error:
            raise self._too_slow(asked) from error
        except OSError as error:
            raise self._unreachable(asked, cut_off=isinstance(error, CUT_OFF)) from error
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
        for words, fix in REFUSALS.items():
            if words == status or (words in message and not words.isdecimal()):
                return RequestError(asked, message, fix)
        return ServerError(asked, message or f"status {status}", "look at the server's log")

    def _too_slow(self, asked: str) -> ServerError:
        found = f"no answer within {self.timeout_s:g} s"
        return ServerError(asked, found, "look at the server's log, or give the client a longer timeout")

    def _unreachable(self, asked: str, cut_off: bool = False) -> ServerError:
        found = f"no server answers at {self.url} over {self.protocol}"
        if cut_off:
            found += ": it has just ended, or it cut off a request that is too large for it"
        fix = "start it with `tldeploy serve`, and check host, port and protocol"
        if self.has_tls:
            fix += ", and that its certificate is for that host and vouched for (ca=)"
        elif not cut_off and (spoken := self._spoken_there()) not in {None, self.protocol}:
            found = f"what listens at {self.url} looks like {spoken}, not {self.protocol}"
            fix = f"ask it over {spoken}, or name the server's other port"
        return ServerError(asked, found, fix)

    def _spoken_there(self) -> Protocol | None:
        """The protocol of whoever listens there, by the first bytes of an answer; None where they do not tell."""
        host, _, port = self.url.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), PROBED_WITHIN_S) as connection:
                connection.sendall(f"GET /v2 HTTP/1.1\r\nHost: {self.url}\r\nConnection: close\r\n\r\n".encode())
                first = connection.recv(16)
        except OSError:
            return None
        if first.startswith(b"HTTP/1"):
            return "http"
        return "grpc" if first[3:4] == b"\x04" else None  # HTTP/2 begins with a frame of SETTINGS


def closed(asked: str) -> UsageError:
    """The error of who uses a client outside its `with` block."""
    return UsageError(asked, "the client is closed", "use it inside its `with` block")


def _checked(url: str) -> str:
    """host:port, as both client libraries want it. Raises UsageError for anything else."""
    host, _, port = url.rpartition(":")
    labels = host.strip("[]").split(".")
    good = "/" not in url and all(label and len(label) < 64 for label in labels) and port.isdecimal()
    if not good or int(port) > 65535:
        fix = "give it like 127.0.0.1:8000, or https://127.0.0.1:8000 for TLS, over either protocol"
        raise UsageError("call a server", f"{url!r} is not host:port", fix)
    return url


def _check_ca(ca: Path, has_tls: bool) -> None:
    if not has_tls:
        raise UsageError(f"trust {ca}", "without TLS nothing is vouched for", "give the url as https://host:port")
    try:
        ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"trust {ca}", str(error), "name a PEM file with the certificates") from None
