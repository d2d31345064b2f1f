"""A peer while it runs: started by its command, asked, weighed, and stopped with all that descends from it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.peers import client
from bench.peers.roster import SERVERS, Peer
from tldeploy.errors import TldeployError
from tldeploy.tasks.classification import Row

START_WITHIN_S, STOP_WITHIN_S = 120.0, 20.0
PAUSE_S = 0.02
Times = NDArray[np.float64]


class Running:
    """`with Running(peer, rows, expected, folder, pool) as running:` starts it; `start_s` is how long that took.

    expected: what the network answers to the first rows; the start has ended when the first of them is answered right.
    pool: the process of the clients. folder: where it runs, and its log goes.
    """

    def __init__(
        self, peer: Peer, rows: Sequence[Row], expected: NDArray[np.float32], folder: Path, pool: Executor
    ) -> None:
        self.peer, self.rows, self.expected, self.folder, self.pool = peer, rows, expected, folder, pool

    def __enter__(self) -> Self:
        log = (self.folder / f"{self.peer.name}.log").open("w")
        pipe = subprocess.PIPE
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            list(self.peer.command),
            cwd=self.folder,
            stdin=pipe,
            stdout=log if self.peer.endpoint else pipe,
            stderr=log,
            text=True,
        )
        log.close()
        try:
            self._wait(begun + START_WITHIN_S)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answers(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """float32 [rows, classes]."""
        if self.peer.endpoint is None:
            found = self._tell(rows, None)["answers"]
        else:
            found = self.pool.submit(client.answers, self.peer.endpoint, rows).result()
        return np.array(found, dtype=np.float32)

    def load(self, clients: int, first: int, seconds: float) -> Times:
        """When each request was sent and answered, float64 [requests, 2]. first: the row to begin with."""
        rows = [*self.rows[first % len(self.rows) :], *self.rows[: first % len(self.rows)]]
        if self.peer.endpoint is None:
            return np.array(self._tell(rows, seconds)["times"])
        return np.array(self.pool.submit(client.load, self.peer.endpoint, rows, clients, seconds).result())

    def memory_mb(self) -> float:
        """Of it and all its descendants, the proportional set size: what they share counts once."""
        return sum(process.memory_full_info().pss for process in self._tree()) / 1e6

    def off(self) -> float:
        """The largest difference to the network's own probabilities. Raises SystemExit above the tolerance."""
        found = self.answers(self.rows[: len(self.expected)])
        off = float(np.abs(found - self.expected).max())
        if off > self.peer.tolerance:
            raise SystemExit(
                f"{self.peer.name} is {off:.1e} off the network, more than {self.peer.tolerance}: not timed"
            )
        return off

    def stop(self) -> None:
        tree = self._tree()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WITHIN_S)
        for process in psutil.wait_procs(tree, timeout=1)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _tree(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _wait(self, until: float) -> None:
        endpoint = self.peer.endpoint
        if endpoint is None:
            assert self._process.stdout is not None
            self._process.stdout.readline()
            self.answers(self.rows[:1])
            return
        ask: Callable[[], Any] = lambda: client.answers(endpoint, self.rows[:1], 1)  # noqa: E731
        while True:
            with suppress(TldeployError):
                if np.abs(np.array(ask()) - self.expected[:1]).max() <= self.peer.tolerance:
                    return
            if self._process.poll() is not None or time.perf_counter() > until:
                said = (self.folder / f"{self.peer.name}.log").read_text(encoding="utf-8", errors="replace")
                raise SystemExit(f"{self.peer.name} does not answer:\n{said[-2000:]}")
            time.sleep(PAUSE_S)

    def _tell(self, rows: Sequence[Row], seconds: float | None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        sent = [row if isinstance(row, str) else row.decode("latin-1") for row in rows]
        self._process.stdin.write(json.dumps({"rows": sent, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def loaded_bytes(peer: Peer, row: Row, folder: Path) -> dict[str, int]:
    """Of the installed packages of which the peer has loaded anything once it has answered, by package."""
    file = folder / f"{peer.name}.row"
    file.write_bytes(row.encode() if isinstance(row, str) else row)
    answering = [str(peer.files), peer.engine, str(file)] if peer.engine else []
    command = [str(peer.python), str(SERVERS / "loaded.py"), peer.modules, *answering]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found
