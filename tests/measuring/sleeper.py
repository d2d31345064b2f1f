"""A runner of a known law, for a process of its own: what a test cannot hand over a pipe, its rows say."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.devices import Device
from tldeploy.errors import QualityError
from tldeploy.runtime.local import Local
from tldeploy.tasks.classification import Classification, Row


class Sleeper(Local):
    """A row that starts with a number is of that number's class, modulo three; other words are orders.

    model: a file with the seconds that a row takes whose number ends with 3.
    """

    name = "sleeper"

    def __init__(self, model: Path, task: Classification, device: Device, **settings: str) -> None:
        super().__init__(task, [model])
        self.provider = ", ".join([device, *(f"{name} {value}" for name, value in settings.items())])
        self.seconds = float(model.read_text(encoding="ascii"))
        print("what libraries print when they are imported")

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return np.concatenate([self._one(row.split()[0]) for row in rows])

    def _one(self, word: str | bytes) -> NDArray[np.float32]:
        if word == "refuse":
            raise QualityError("answer", "the row is not to its taste", "ask another one")
        if word == "stumble":
            print("something about tensors", file=sys.stderr)
            raise RuntimeError("shapes do not match")
        if word == "vanish":
            os.kill(os.getpid(), signal.SIGKILL)
        number = int(word)
        time.sleep(self.seconds * (number % 10 == 3))
        answer = np.full((1, 3), 0.1, dtype=np.float32)
        answer[0, number % 3] = 0.8
        return answer

    def run(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.full((len(next(iter(tensors.values()))), 3), 1 / 3, dtype=np.float32)

    def close(self) -> None: ...
