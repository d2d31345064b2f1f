"""Clients that ask a served text model again and again, and what they were answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput


@dataclass
class Asked:
    """One request: what was sent, when (monotonic seconds), and the probabilities or the error that came back."""

    row: str
    sent_s: float
    received_s: float
    answer: tuple[float, ...] = ()
    error: str = ""


@dataclass
class Log:
    requests: list[Asked] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        return [asked.error for asked in self.requests if asked.error]


@contextmanager
def asking(url: str, model: str, rows: Sequence[str], connections: int, pause_s: float = 0.005) -> Iterator[Log]:
    """Ask from so many threads, each over a connection of its own, until the block ends.

    pause_s: between an answer and the next request; with some, the server has the cores to itself for a while.
    """
    log, stop = Log(), threading.Event()
    tensors = {row: _tensor(row) for row in rows}

    def ask(first: int) -> None:
        with InferenceServerClient(url, connection_timeout=60, network_timeout=60) as client:
            number = first
            while not stop.is_set():
                row = rows[number % len(rows)]
                log.requests.append(_ask(client, model, row, tensors[row]))
                number += 1
                time.sleep(pause_s)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield log
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _tensor(row: str) -> Any:
    tensor = InferInput("text", [1, 1], "BYTES")
    return tensor.set_data_from_numpy(np.array([[row.encode()]], dtype=object))


def _ask(client: Any, model: str, row: str, tensor: Any) -> Asked:
    sent_s = time.monotonic()
    try:
        answer = client.infer(model, [tensor]).as_numpy("probabilities")[0].tolist()
        return Asked(row, sent_s, time.monotonic(), tuple(answer))
    except Exception as error:  # noqa: BLE001 — the client's errors are of many kinds; each is a lost request
        return Asked(row, sent_s, time.monotonic(), error=str(error) or type(error).__name__)
