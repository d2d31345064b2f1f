"""A running Triton server: started, watched, asked for real answers, and stopped.

`with Server(repository) as server:` goes through these stages; each failure is a ServerError that says what to do:
1. a publication that was cut off is finished, what is to be served suits the machine (placement.py), hashes are right;
2. the ports are free: Triton itself would notice only after loading every model;
3. `tritonserver` is started through a warden (process.py), in a session of its own, so that Ctrl-C reaches only us;
4. it is ready, and the one that answers is ours; it has not died, and it has not hung;
5. every published model gives its golden answers: a server with a dead worker still says that it is ready;
6. where others can reach it, the gate before it opens (gate.py).
Leaving the block stops it: no process and no shared memory of it stays.

While `wait` blocks, every model is asked now and then, and one whose worker is dead is loaded again (watch.py). A
server that follows its repository takes what is published there meanwhile (running.py, following.py).

`serve` is the same as a command: it blocks until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

import numpy as np

from tldeploy.errors import ServerError, TldeployError, UsageError
from tldeploy.runtime.triton import Client
from tldeploy.tasks.classification import Row
from tldeploy.triton import running
from tldeploy.triton.canary import parts
from tldeploy.triton.config import ENGINES_WITHIN_S, merges_lengths
from tldeploy.triton.flags import EXIT_TIMEOUT_S, Listening, checked_key, server_flags
from tldeploy.triton.following import Follower
from tldeploy.triton.gate import Gate, is_loopback, opened_gate
from tldeploy.triton.home import locate
from tldeploy.triton.keeping import check_served
from tldeploy.triton.log import causes, last_events, remedy
from tldeploy.triton.placement import builds_engines, check_servable
from tldeploy.triton.ports import LOOPBACK, free_ports
from tldeploy.triton.process import Log, Process
from tldeploy.triton.repository import Publication, all_published, check_path, golden
from tldeploy.triton.server_options import server_options
from tldeploy.triton.transaction import alone_with, can_hold_off
from tldeploy.triton.watch import Watch
from tldeploy.triton.workers import Workers

HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
READY_WITHIN_S = 120.0
KILL_AFTER_S = EXIT_TIMEOUT_S + 5
# Golden answers came from onnxruntime on the exporting machine. Quantized kernels differ between CPUs by some
# hundredths; another model, other labels or another tokenizer differ by more.
GOLDEN_TOLERANCE = 0.05
GOLDEN_ROWS = 4
WATCH_EVERY_S = 10.0


class Server:
    """A Triton server on a model repository.

    repository: the folder that `publish` wrote to.
    http_port, grpc_port, metrics_port: 0 takes a free one; after the start they are the ports in use.
    host: where to listen; loopback unless told, for whoever can connect can use the models.
    gate: what stands before the server; if others can reach the host there is one, told or not.
    key: opens the protocols that are for the server's owner; by default one that nobody can guess.
    opened: of flags.OPENABLE, those that need no key.
    ready_within_s: how long loading may take; None for READY_WITHIN_S, or more where TensorRT builds engines.
    golden_rows: how many of each model are asked at the start.
    follows: takes other versions while it runs; a folder beside the repository says where it is, until it stops.
    trusted: hashes are not looked at, as of what has just been laid out.
    traced: requests are traced, and answers cached, where the recipes of what is published ask for it.
    log: receives each line of the server's log, from another thread.
    """

    def __init__(
        self,
        repository: Path,
        *,
        http_port: int = HTTP_PORT,
        grpc_port: int = GRPC_PORT,
        metrics_port: int = METRICS_PORT,
        host: str = LOOPBACK,
        gate: Gate | None = None,
        key: str | None = None,
        opened: Collection[str] = (),
        ready_within_s: float | None = None,
        golden_rows: int = GOLDEN_ROWS,
        follows: bool = False,
        trusted: bool = False,
        traced: bool = False,
        log: Log | None = None,
    ) -> None:
        self.repository = repository.resolve()
        self.http_port, self.grpc_port, self.metrics_port = http_port, grpc_port, metrics_port
        self.host = host
        self.gate = gate or (None if is_loopback(host) else Gate())
        self._inner = Listening(host, http_port, grpc_port, metrics_port)
        within_s = ENGINES_WITHIN_S if builds_engines(self.repository) else READY_WITHIN_S
        self.ready_within_s, self.traced = ready_within_s or within_s, traced
        self.golden_rows, self.follows, self.trusted = golden_rows, follows, trusted
        self.running: running.Running | None = None
        self.id = f"tldeploy-{uuid.uuid4().hex[:12]}"
        self.published: list[Publication] = []
        self.key = secrets.token_hex(16) if key is None else checked_key(key)
        self._opened = opened
        self._log = log
        self._process: Process | None = None
        self._gate_process: Process | None = None

    def __enter__(self) -> Server:
        check_path(self.repository)
        self.published = all_published(self.repository)
        check_servable(self.repository, self.published)
        self._take_ports()
        try:
            if self.follows:
                self._describe()
            try:
                self._serve()
            except (TldeployError, OSError):
                if not self._is_overtaken():
                    raise
                self._end()
                self._serve()
            self._open_gate()
        except BaseException:
            self.stop()
            raise
        return self

    def _serve(self) -> None:
        """One that follows holds off publishers, who cannot tell it anything yet; see `_is_overtaken` for others."""
        asked = f"serve {self.repository}"
        with alone_with(self.repository, asked) if self.running else contextlib.nullcontext():
            self.published = all_published(self.repository)
            if not self.trusted and (unknown := check_served(self.repository)) and self._log:
                self._log(f"not published by tldeploy, and served without hashes to check: {', '.join(unknown)}")
            self._start()
            self._wait_until_ready()
            try:
                self._check_golden_answers()
            except OSError as error:
                raise ServerError(asked, f"its files change: {error}", "run the same command again") from error

    def _is_overtaken(self) -> bool:
        """Whether another version has become live since the start began, and the files of this one may be gone."""
        with contextlib.suppress(TldeployError):
            return self.published != all_published(self.repository)
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        """host:port, or https://host:port, as Client takes it; with a gate, the gate's."""
        return self._url(self.http_port)

    @property
    def grpc_url(self) -> str:
        return self._url(self.grpc_port)

    def _url(self, port: int) -> str:
        host = LOOPBACK if self.host in {"0.0.0.0", "::"} else self.host
        return f"{'https://' if self.gate and self.gate.tls else ''}{host}:{port}"

    @property
    def _inner_url(self) -> str:
        """Triton's own, for HTTP."""
        return f"{self._inner.host}:{self._inner.http_port}"

    @property
    def pid(self) -> int | None:
        """The warden's process id; the server and its workers descend from it."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """The exit code of a server, or of the gate before it, that has ended by itself; None while it runs."""
        codes = [process.poll() for process in (self._process, self._gate_process) if process]
        return next((code for code in codes if code is not None), None)

    def stop(self) -> None:
        """Stop the server, and wait until nothing of it is left."""
        if self.running is not None:
            self.running.leave()
        self._end()
        if self.running is not None:
            self.running.remove()

    def _end(self) -> None:
        gate, self._gate_process = self._gate_process, None
        process, self._process = self._process, None
        if gate is not None:
            gate.stop()
        if process is not None:
            process.stop()

    def wait(self, watch_every_s: float = WATCH_EVERY_S) -> NoReturn:
        """Block while the server runs, and replace workers that die. Raises ServerError when it ends by itself.

        watch_every_s: the pause before all models are asked again whether their workers live.
        """
        process = self._process
        assert process is not None
        log, lock = self._log or (lambda line: None), self.running.lock if self.running else None
        follower = Follower(self.running, log, self.published) if self.running else None
        workers = Workers(f"{self.id}-", self.repository)
        with Watch(self._inner_url, self.key, workers, log, lock=lock) as watch:
            while True:
                if follower is not None:
                    follower.look()
                try:
                    code = process.wait(watch_every_s)
                    break
                except subprocess.TimeoutExpired:
                    self._check_gate()
                    watch.look()
        raise ServerError(f"keep serving {self.repository}", *self._death(code))

    def _describe(self) -> None:
        """Tell publishers where it will be, if anything can be written beside the repository."""
        running.described(self.repository)  # removes what dead ones left
        if can_hold_off(self.repository) and running.make_place(self.repository, self.id):
            metrics = f"{self._inner.host}:{self._inner.metrics_port}"
            here = (self._inner_url, self.key, os.getpid(), socket.gethostname(), metrics)
            self.running = running.Running(str(self.repository), self.id, *here)
            self.running.describe()
        elif self._log:
            self._log(f"nothing can be written beside {self.repository}: other versions are taken at a restart only")

    def _take_ports(self) -> None:
        given = {"http_port": self.http_port, "grpc_port": self.grpc_port, "metrics_port": self.metrics_port}
        for port in given.values():
            if port and list(given.values()).count(port) > 1:
                fix = "choose three different ports"
                raise UsageError(f"serve {self.repository}", f"port {port} is given twice", fix)
        for (name, port), free in zip(given.items(), free_ports(), strict=True):
            setattr(self, name, port or free)
            if port:
                self._check_free(name, port)
        self._inner = Listening(self.host, self.http_port, self.grpc_port, self.metrics_port)
        if self.gate:
            http_port, grpc_port = free_ports(2)
            self._inner = Listening(LOOPBACK, http_port, grpc_port, self.metrics_port)

    def _check_free(self, name: str, port: int) -> None:
        asked = f"serve on {self.host}:{port}"
        option = f"--{name.replace('_', '-')}"
        try:
            socket.create_server((self.host, port)).close()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            found = "another program listens there" if taken else f"listening there is refused ({error.strerror})"
            fix = f"stop the other program, or choose another port with {option}"
            raise ServerError(asked, found, fix) from None

    def _start(self) -> None:
        home = locate()
        prefix = f"{self.id}-"
        repositories = [self.repository, *([self.running.folder] if self.running else [])]
        flags = server_flags(self.id, repositories, home.backends, self._inner, self.key, self._opened, prefix)
        # A second and more for each load, because each worker is started twice: only where it is needed.
        flags += [] if merges_lengths(self.repository) else ["--disable-auto-complete-config"]
        flags += [f"--cache-directory={home.caches}", *server_options(self.published, self.traced)]
        # A clean stop takes Triton three seconds. One that serves nobody and writes no traces is killed instead.
        patience_s = KILL_AFTER_S if self.follows or self.traced else 0
        self._process = Process([str(home.program), *flags], home.variables, patience_s, prefix, self._log)

    def _open_gate(self) -> None:
        if self.gate:
            ports, behind = (self.http_port, self.grpc_port), (self._inner.http_port, self._inner.grpc_port)
            self._gate_process = opened_gate(self.gate, self.host, ports, behind, f"{self.id}-gate", self._log)

    def _check_gate(self) -> None:
        if self._gate_process and (code := self._gate_process.poll()) is not None:
            found = "\n".join([f"the gate ended by itself (exit code {code}):", *self._gate_process.last_words()[-5:]])
            raise ServerError(f"keep serving {self.repository}", found, "start the server again")

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.ready_within_s
        while not self._is_ready():
            if (code := self._process.poll()) is not None:
                raise ServerError(f"start a server on {self.repository}", *self._death(code))
            if time.monotonic() > deadline:
                end = last_events(list(self._process.tail))
                found = "\n".join([f"it is not ready after {self.ready_within_s:g} s; the end of its log:", *end])
                fix = "look in the log for the model that does not finish loading, and publish it again"
                raise ServerError(f"start a server on {self.repository}", found, fix)
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """Whether a server answers that it is ready, and is this one: another might have taken the port meanwhile."""
        connection = http.client.HTTPConnection(self._inner.host, self._inner.http_port, timeout=2)
        try:
            connection.request("GET", "/v2/health/ready")
            ready = connection.getresponse()
            ready.read()
            connection.request("GET", "/v2")
            answer = json.loads(connection.getresponse().read())
            return ready.status == 200 and answer.get("name") == self.id
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def _death(self, code: int) -> tuple[str, str]:
        """What was found, and what to do."""
        assert self._process is not None
        found = causes(self._process.last_words())
        return "\n".join([f"the server ended by itself (exit code {code}):", *found]), remedy(found)

    def _check_golden_answers(self) -> None:
        for publication in self.published:
            canary = parts.running(self.repository, publication.name)
            model = canary.stable_model if canary else publication.name
            with Client(self._inner_url, model=model, timeout_s=self.ready_within_s) as client:
                for row, expected in list(zip(*golden(publication), strict=True))[: self.golden_rows]:
                    if found := difference(row, client.predict([row])[0].tolist(), expected):
                        asked = f"serve {publication.name} version {publication.version}"
                        raise ServerError(asked, found, "export and publish the model again on this kind of machine")


def difference(row: Row, answer: list[float], expected: list[float]) -> str:
    """How an answer to a golden row is not the expected one, in words; empty when it is."""
    if len(answer) == len(expected) and np.allclose(answer, expected, rtol=0, atol=GOLDEN_TOLERANCE):
        return ""
    return f"for the golden row {row[:60]!r} it answers {answer}, expected {expected}"


def serve(
    repository: Path,
    *,
    http_port: int = HTTP_PORT,
    grpc_port: int = GRPC_PORT,
    metrics_port: int = METRICS_PORT,
    host: str = LOOPBACK,
    gate: Gate | None = None,
    key: str | None = None,
    opened: Collection[str] = (),
    log: Log | None = None,
    on_ready: Callable[[Server], None] | None = None,
) -> int:
    """Serve until Ctrl-C or SIGTERM, then stop cleanly and return 0. Call it from the main thread.

    Raises ServerError when the server does not start, or ends by itself, and KeyboardInterrupt when it is told to stop
    before it is ready.
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)
    serving = Server(
        repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        host=host,
        gate=gate,
        key=key,
        opened=opened,
        follows=True,
        traced=True,
        log=log,
    )
    try:
        with serving as server:
            try:
                if on_ready is not None:
                    on_ready(server)
                server.wait()
            except KeyboardInterrupt:
                pass
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
