"""The gate before a server that others can reach: TLS, a limit on the size of requests, and API keys.

Triton itself has no TLS over HTTP, no limit on what a request may weigh, and takes anybody's. So where it is not for
this machine alone it listens on loopback, and Envoy (envoy.py) listens where it should:
1. a request without a right API key is refused, if there are keys; only whether the server is alive is for everybody;
2. what is compressed, or a stream of requests, is refused: how large it becomes cannot be told before;
3. what says, or turns out, to be larger than the limit is refused. Triton gets a request when all of it is there;
4. JSON that is nested deep is refused: it would end Triton, whose parser calls itself for each level;
5. when too much is held of all requests together, new ones are refused.
Metrics stay on loopback.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tldeploy.environment import usable_cores
from tldeploy.errors import ServerError, UsageError
from tldeploy.progress import say
from tldeploy.triton.envoy import configuration, locate
from tldeploy.triton.process import Log, Process

MAX_REQUEST_MB = 64
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 5.0
SHARED_MEMORY = Path("/dev/shm")
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where who listens everywhere can be found
API_KEY = re.compile(r"[!-~]{16,256}")


@dataclass(frozen=True)
class Gate:
    """tls: PEM files, the chain of certificates and its key; without, everything can be read and changed on the way.

    api_keys: any of them opens inference; none at all: everybody may ask. max_request_mb: the most a request may have.
    """

    tls: tuple[Path, Path] | None = None
    api_keys: tuple[str, ...] = ()
    max_request_mb: int = MAX_REQUEST_MB

    def __post_init__(self) -> None:
        if self.max_request_mb < 1:
            raise UsageError("limit requests", f"{self.max_request_mb} MB is no limit", "give 1 MB or more")
        if self.tls:
            _check_pair(*self.tls)

    @property
    def max_request_bytes(self) -> int:
        return self.max_request_mb * 1_000_000


def gate_for(
    host: str,
    tls: tuple[str | Path, str | Path] | None = None,
    api_key_file: str | Path | None = None,
    max_request_mb: int | None = None,
) -> Gate | None:
    """The gate that is asked for, or that the host needs; None on loopback when nothing is asked of it.

    What it leaves open to others is said.
    """
    reachable = not is_loopback(host)
    if not (reachable or tls or api_key_file or max_request_mb):
        return None
    api_keys = read_api_keys(Path(api_key_file)) if api_key_file else ()
    files = (Path(tls[0]).resolve(), Path(tls[1]).resolve()) if tls else None
    gate = Gate(files, api_keys, MAX_REQUEST_MB if max_request_mb is None else max_request_mb)
    if reachable and not gate.tls:
        say(f"WARNING: without TLS, whoever is on the way to {host} can read and change requests, answers and keys")
    if reachable and not gate.api_keys:
        say(f"WARNING: without API keys, everybody who reaches {host} can use the models")
    return gate


def read_api_keys(file: Path) -> tuple[str, ...]:
    """One key a line. Raises UsageError for a file without any, or with one that is easy to guess."""
    asked = f"read API keys from {file}"
    try:
        keys = tuple(filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(asked, str(error), "give a text file with a key in each line") from None
    bad = [str(number) for number, key in enumerate(keys, start=1) if not API_KEY.fullmatch(key)]
    if bad or not keys:
        found = f"key {', '.join(bad)} has not 16 to 256 plain characters" if bad else "it is empty"
        raise UsageError(asked, found, 'make one with `python -c "import secrets; print(secrets.token_urlsafe())"`')
    return keys


def _check_pair(certificate: Path, private_key: Path) -> None:
    """Raises UsageError unless these are a certificate and its private key, unencrypted."""
    asked = f"serve with the certificate {certificate} and the key {private_key}"
    fix = "give PEM files: the chain of certificates, and its private key, not encrypted"
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, private_key, password=_refuse_password)
    except ssl.SSLError as error:
        reason = (error.reason or "not PEM files of a certificate and a key").lower().replace("_", " ")
        found = "they do not belong together" if reason == "key values mismatch" else reason
        raise UsageError(asked, found, fix) from None
    except (OSError, ValueError) as error:
        raise UsageError(asked, str(error), fix) from None


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there. Raises UsageError for a host that is none."""
    return ipaddress.ip_address(_address(host)).is_loopback


def _address(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError as error:
        fix = "give an address of this machine, or 0.0.0.0 for all"
        raise UsageError(f"listen on {host!r}", str(error.strerror), fix) from None


def opened_gate(
    gate: Gate, host: str, ports: tuple[int, int], behind: tuple[int, int], prefix: str, log: Log | None
) -> Process:
    """The gate, open, before a server. Raises ServerError when it does not open.

    host, ports: where it listens for HTTP and for gRPC. behind: the server's ports for them, on loopback.
    prefix: of what is put into /dev/shm.
    """
    address, program = _address(host), str(locate())
    told = configuration(address, ports, behind, gate.max_request_bytes, gate.api_keys, gate.tls)
    # The keys are in it: it is for us alone, and lies where the warden clears away whatever happens.
    file = SHARED_MEMORY / f"{prefix}.json"
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as opened:
        json.dump(told, opened)
    options = ["--concurrency", str(usable_cores()), "--disable-hot-restart", "--log-level", "error"]
    process = Process([program, "--config-path", str(file), *options], {}, STOP_WITHIN_S, prefix, log)
    try:
        for port in ports:
            _wait_until_open(process, EVERYWHERE.get(address, address), port)
    except BaseException:
        process.stop()
        raise
    file.unlink()
    return process


def _wait_until_open(process: Process, address: str, port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not _listens(address, port):
        if (ended := process.poll() is not None) or time.monotonic() > deadline:
            words = process.last_words() if ended else list(process.tail)
            found = "\n".join(["Envoy does not start; the end of its log:", *words[-5:]])
            raise ServerError(f"open a gate at {address}:{port}", found, "look at what it says")
        time.sleep(0.02)


def _listens(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False
