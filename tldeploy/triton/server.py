"""A running Triton server: started, watched, asked for real answers, and stopped.

`with Server(repository) as server:` goes through these stages; each failure is a ServerError that says what to do:
1. a publication that was cut off is finished, and there is something to serve;
2. the ports are free: Triton itself would notice only after loading every model;
3. `tritonserver` is started through a warden (warden.py), in a session of its own, so that Ctrl-C reaches only us;
4. it is ready, and the one that answers is ours; it has not died, and it has not hung;
5. every published model gives its golden answers: a server with a dead worker still says that it is ready.
Leaving the block stops it: no process and no shared memory of it stays.

While `wait` blocks, every model is asked now and then, and one whose worker is dead is loaded again (watch.py).

`serve` is the same as a command: it blocks until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import http.client
import json
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

import numpy as np

from tldeploy.errors import ServerError, UsageError
from tldeploy.runtime.triton import Client
from tldeploy.tasks.classification import Row
from tldeploy.triton.home import locate
from tldeploy.triton.log import causes, last_events
from tldeploy.triton.repository import Publication, all_published, check_path, golden
from tldeploy.triton.server_options import server_options
from tldeploy.triton.transaction import CONFIG_FILE
from tldeploy.triton.watch import KEY_HEADER, Watch

LOOPBACK = "127.0.0.1"
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
READY_WITHIN_S = 120.0
# An idle keep-alive connection holds a clean stop back for this long; Triton's default is 30.
EXIT_TIMEOUT_S = 5
KILL_AFTER_S = EXIT_TIMEOUT_S + 5
WARDEN = Path(__file__).with_name("warden.py")
LOG_TAIL = 400
# Golden answers came from onnxruntime on the exporting machine. Quantized kernels differ between CPUs by some
# hundredths; another model, other labels or another tokenizer differ by more.
GOLDEN_TOLERANCE = 0.05
GOLDEN_ROWS = 4
WATCH_EVERY_S = 10.0

Log = Callable[[str], None]


def free_ports(count: int = 3) -> list[int]:
    """Ports that nobody listens on now, all different."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports


class Server:
    """A Triton server on a model repository.

    repository: the folder that `publish` wrote to.
    http_port, grpc_port, metrics_port: 0 takes a free one; after the start they are the ports in use.
    host: where to listen; loopback unless told, for whoever can connect can use the models.
    ready_within_s: how long loading may take.
    traced: requests are traced, where the recipes of what is published ask for it.
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
        ready_within_s: float = READY_WITHIN_S,
        traced: bool = False,
        log: Log | None = None,
    ) -> None:
        self.repository = repository.resolve()
        self.http_port, self.grpc_port, self.metrics_port = http_port, grpc_port, metrics_port
        self.host = host
        self.ready_within_s, self.traced = ready_within_s, traced
        self.id = f"tldeploy-{uuid.uuid4().hex[:12]}"
        self.published: list[Publication] = []
        # Models are loaded and unloaded for nobody who does not send it.
        self.control_key = secrets.token_hex(16)
        self._log = log
        self._tail: deque[str] = deque(maxlen=LOG_TAIL)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Server:
        check_path(self.repository)
        self.published = all_published(self.repository)
        if not any(self.repository.glob(f"*/{CONFIG_FILE}")):
            raise ServerError(f"serve {self.repository}", "no model is in it", "publish one with `tldeploy deploy`")
        self._take_ports()
        try:
            self._start()
            self._wait_until_ready()
            self._check_golden_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        return f"{self._reachable_host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{self._reachable_host}:{self.grpc_port}"

    @property
    def _reachable_host(self) -> str:
        return LOOPBACK if self.host in {"0.0.0.0", "::"} else self.host

    @property
    def pid(self) -> int | None:
        """The warden's process id; the server and its workers descend from it."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """Stop the server, and wait until nothing of it is left."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()  # the warden stops the server when this pipe closes
        try:
            process.wait(KILL_AFTER_S + 10)
        except subprocess.TimeoutExpired:  # the kernel kills the server with its warden
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join()
        if process.stdout is not None:
            process.stdout.close()

    def wait(self, watch_every_s: float = WATCH_EVERY_S) -> NoReturn:
        """Block while the server runs, and replace workers that die. Raises ServerError when it ends by itself.

        watch_every_s: the pause before all models are asked again whether their workers live.
        """
        process = self._process
        assert process is not None
        with Watch(self.http_url, self.control_key, self._log or (lambda line: None)) as watch:
            while True:
                try:
                    code = process.wait(watch_every_s)
                    break
                except subprocess.TimeoutExpired:
                    watch.look()
        raise ServerError(f"keep serving {self.repository}", self._death(code), self._death_fix())

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
        command = [
            sys.executable, "-I", str(WARDEN), str(KILL_AFTER_S), prefix,
            str(home.program), *self._flags(home.backends, prefix),
            f"--cache-directory={home.caches}", *server_options(self.published, self.traced),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(home.variables),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()

    def _flags(self, backends: Path, prefix: str) -> list[str]:
        return [
            f"--id={self.id}",
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",
            "--disable-auto-complete-config",
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--http-restricted-api=model-repository:{KEY_HEADER}={self.control_key}",
            f"--grpc-restricted-protocol=model-repository:{KEY_HEADER}={self.control_key}",
            f"--http-address={self.host}",
            f"--http-port={self.http_port}",
            f"--grpc-address={self.host}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-address={self.host}",
            f"--metrics-port={self.metrics_port}",
            f"--allow-gpu-metrics={str(Path('/dev/nvidiactl').exists()).lower()}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            f"--backend-config=onnxruntime,shm-region-prefix-name={prefix}",
        ]

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._tail.append(line.rstrip("\n"))
            if self._log is not None:
                try:
                    self._log(line.rstrip("\n"))
                except OSError:  # nobody reads our output any more; unread, the server's would fill up and block it
                    self._log = None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.ready_within_s
        while not self._is_ready():
            if (code := self._process.poll()) is not None:
                raise ServerError(f"start a server on {self.repository}", self._death(code), self._death_fix())
            if time.monotonic() > deadline:
                end = last_events(list(self._tail))
                found = "\n".join([f"it is not ready after {self.ready_within_s:g} s; the end of its log:", *end])
                fix = "look in the log for the model that does not finish loading, and publish it again"
                raise ServerError(f"start a server on {self.repository}", found, fix)
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """Whether a server answers that it is ready, and is this one: another might have taken the port meanwhile."""
        connection = http.client.HTTPConnection(self._reachable_host, self.http_port, timeout=2)
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

    def _death(self, code: int) -> str:
        if self._reader is not None:
            self._reader.join()
        return "\n".join([f"the server ended by itself (exit code {code}):", *causes(self._tail)])

    def _death_fix(self) -> str:
        return "publish the model that it names again with `tldeploy deploy`, then start the server again"

    def _check_golden_answers(self) -> None:
        for publication in self.published:
            with Client(self.http_url, model=publication.name, timeout_s=self.ready_within_s) as client:
                for row, expected in list(zip(*golden(publication), strict=True))[:GOLDEN_ROWS]:
                    _check_answer(publication, row, client.predict([row])[0].tolist(), expected)


def _check_answer(publication: Publication, row: Row, answer: list[float], expected: list[float]) -> None:
    if len(answer) != len(expected) or not np.allclose(answer, expected, rtol=0, atol=GOLDEN_TOLERANCE):
        asked = f"serve {publication.name} version {publication.version}"
        found = f"for the golden row {row[:60]!r} it answers {answer}, expected {expected}"
        raise ServerError(asked, found, "export and publish the model again on this kind of machine")


def serve(
    repository: Path,
    *,
    http_port: int = HTTP_PORT,
    grpc_port: int = GRPC_PORT,
    metrics_port: int = METRICS_PORT,
    log: Log | None = None,
    on_ready: Callable[[Server], None] | None = None,
) -> int:
    """Serve until Ctrl-C or SIGTERM, then stop cleanly and return 0. Call it from the main thread.

    Raises ServerError when the server does not start, or ends by itself, and KeyboardInterrupt when it is told to stop
    before it is ready.
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)
    serving = Server(
        repository, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port, traced=True, log=log
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
