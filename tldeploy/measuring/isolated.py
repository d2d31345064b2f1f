"""An engine in a process of its own, so that no other one's threads, memory and libraries are in its figures.

    python -m tldeploy.measuring.isolated FOLDER

It is told by lines of JSON (see process.py), first which runner to open, then turn by turn what to ask it. Times are
taken there, around the runner's own `predict`: the pipe is not in them. A turn is over when the process is quiet: the
threads of onnxruntime and OpenMP spin for a while after their last request, and would do so in the next engine's turn.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.devices import Device
from tldeploy.environment import resident_bytes
from tldeploy.errors import TldeployError
from tldeploy.measuring.asking import Answers, Queries, Times, loaded, timed
from tldeploy.measuring.process import Parent, Process, packed, unpacked
from tldeploy.runtime.local import Local
from tldeploy.tasks import load_task
from tldeploy.tasks.classification import Classification, Row

LOOK_EVERY_S = 0.005
QUIET = 0.2  # of a core
MOST_SECONDS = 0.5


@dataclass(frozen=True)
class Opening:
    """What an engine costs before it answers.

    seconds: from the start of its process to its first answer, imports included; of a served one until the server is
    ready, with all that its repository holds. memory_mb: resident memory that this
    added to a bare Python, in 10^6 bytes; None where it is not known. size_bytes: on disk, of the network.
    """

    seconds: float
    memory_mb: float | None
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Isolated:
    """A Runner whose network is loaded, and asked, in another process; `timed` and `loaded` are those of asking.py.
    settings: what its runner was opened with.

    Raises what the runner raises there, and MachineError, with the engine's name and the exit code, when the process is
    gone.
    """

    def __init__(
        self,
        engine: str,
        runner: str,
        model: Path,
        task: Classification,
        preprocessing: Path,
        device: Device = "cpu",
        **settings: Any,
    ) -> None:
        """engine: what it is called if it cannot be opened. runner: a subclass of Local, as `module:name`; it is called
        with the model, the task, the device and the settings, which JSON can have. preprocessing: the folder that the
        task is loaded from."""
        start = time.perf_counter()
        about = {
            "runner": runner,
            "model": str(model),
            "task": [task.name, str(preprocessing), task.labels],
            "device": device,
            "settings": settings,
        }
        self.settings = settings
        self._process = Process(__name__, f"run {engine}", about)
        seconds, opened = time.perf_counter() - start, self._process.began
        self.name: str = opened["name"]
        self.provider: str = opened["provider"]
        self.opening = Opening(seconds, opened["memory_mb"], opened["size_bytes"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        return self.timed([rows])[1][0]

    def timed(self, queries: Queries) -> tuple[Times, Answers]:
        found = self._process.tell({"queries": [packed(query) for query in queries]})
        return np.array(found["took_ms"]), [np.array(answer, dtype=np.float32) for answer in found["answers"]]

    def loaded(self, rows: Sequence[Row], clients: int, seconds: float) -> tuple[Times, float]:
        found = self._process.tell({"rows": packed(rows), "clients": clients, "seconds": seconds})
        return np.array(found["latency_ms"]), found["elapsed_s"]

    def close(self) -> None:
        self._process.close()


def _serve(parent: Parent) -> None:
    """Open the runner that is asked for, then ask it what is told."""
    runner: Local | None = None
    for told in parent:
        try:
            if runner is None:
                runner, found = _opened(told)
            else:
                found = _asked(runner, told)
        except TldeployError as error:
            found = error.as_json()
        parent.answer(found)
    if runner is not None:
        runner.close()


def _opened(about: dict[str, Any]) -> tuple[Local, dict[str, Any]]:
    before = resident_bytes()
    name, folder, labels = about["task"]
    task = load_task(name, Path(folder), labels)
    module, _, kind = about["runner"].partition(":")
    opened = getattr(import_module(module), kind)
    runner: Local = opened(Path(about["model"]), task, about["device"], **about["settings"])
    runner.run({name: values[:1] for name, values in task.sample().items()})
    memory_mb = (resident_bytes() - before) / 1e6
    # As in the scenarios: a full collection over all that torch has made would stall some request.
    gc.collect()
    gc.freeze()
    about_it = {"name": runner.name, "provider": runner.provider, "size_bytes": runner.size_bytes}
    return runner, {**about_it, "memory_mb": memory_mb}


def _asked(runner: Local, told: dict[str, Any]) -> dict[str, Any]:
    if "queries" in told:
        took_ms, answers = timed(runner, [unpacked(query) for query in told["queries"]])
        _until_quiet()
        return {"took_ms": took_ms.tolist(), "answers": [answer.tolist() for answer in answers]}
    latency_ms, elapsed_s = loaded(runner, unpacked(told["rows"]), told["clients"], told["seconds"])
    _until_quiet()
    return {"latency_ms": latency_ms.tolist(), "elapsed_s": elapsed_s}


def _until_quiet() -> None:
    """Wait until this process computes nothing, but not forever."""
    end = time.perf_counter() + MOST_SECONDS
    used_s, before_s = np.inf, time.process_time()
    while used_s > QUIET * LOOK_EVERY_S and time.perf_counter() < end:
        time.sleep(LOOK_EVERY_S)
        now_s = time.process_time()
        used_s, before_s = now_s - before_s, now_s


if __name__ == "__main__":
    _serve(Parent())
