"""Workers that die or hang while a server runs, and their replacement.

Triton goes on saying that a model is ready when its worker is dead; every request then fails, until the model is
unloaded and loaded again. So `Watch.look`
1. asks each model for real, once for each of its instances: with zeros, empty strings, and 1 for an open dim. That a
   model refuses such a request is an answer like any other;
2. kills the workers of a model that does not answer: in all the time that the request waited, and in that of the look
   before, not one run of it has ended, so that it is not merely busy. Unloading it would wait for it for ever;
3. unloads and loads a model that answers that its worker is dead, and loads one that is not there, if its files are
   still those that were published;
4. leaves ensembles for the end: they have no worker, and are there again when their steps are.
One of several instances that hangs is not noticed while others answer.

The server's own model control does it, which listens only to who sends the key. While a publisher tells the server of
another version it looks away, and models on trial (running.py) are none of its business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tldeploy.errors import StorageError
from tldeploy.triton.control import ModelControl
from tldeploy.triton.keeping import check_served
from tldeploy.triton.locks import locked
from tldeploy.triton.placement import instances
from tldeploy.triton.running import ON_TRIAL
from tldeploy.triton.workers import Workers

# Longer than a request that waits its turn on a busy server; one that takes longer is not taken for dead.
PATIENCE_S = 60.0
SILENT_LOOKS = 2
PROBE = "tldeploy-probe"  # a step that counts what it is asked leaves these out
GIVEN_UP = "no answer in time"
DEAD, ABSENT = "is not healthy", ("is not found", "is not ready", "has no available versions")


class Watch:
    """url: host:port of HTTP. key: for the server's model control. log: is told what was done.

    patience_s: how long a request may take, before the model is looked at more closely. lock: what a publisher holds
    while it tells the server of another version.
    """

    def __init__(
        self,
        url: str,
        key: str,
        workers: Workers,
        log: Callable[[str], None],
        patience_s: float = PATIENCE_S,
        lock: Path | None = None,
    ) -> None:
        self._control = ModelControl(url, key, patience_s)
        self._client = self._control.client
        self._workers, self._lock, self._log = workers, lock, log
        self._silent: dict[str, int] = {}
        self._configs: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.__exit__(kind, error, trace)

    def look(self) -> list[str]:
        """Ask every model; the names of those that were loaded again."""
        try:
            with self._alone():
                self._configs = self._read_configs()
                return [name for name in self._configs if self._replaced(name)]
        except StorageError:
            return []
        except Exception as error:  # noqa: BLE001 — the client's errors are of many kinds; the next look tries again
            self._log(f"the models cannot be watched yet: {error}")
            return []

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        if self._lock is None:
            return contextlib.nullcontext()
        return locked(self._lock, "watch the server", wait_s=0, new_folder=False)

    def _read_configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of every model that is ready, or was at an earlier look; ensembles last."""
        found = self._control.index()
        there = {model["name"] for model in found if ON_TRIAL not in model["name"]}
        ready = {model["name"] for model in found if model.get("state") == "READY"}
        configs = {name: config for name, config in self._configs.items() if name in there}
        configs |= {name: self._client.get_model_config(name) for name in sorted(there & ready)}
        return dict(sorted(configs.items(), key=lambda item: item[1].get("platform") == "ensemble"))

    def _replaced(self, name: str) -> bool:
        runs = self._runs(name)
        reason = self._complaint(name)
        if self._hangs(name, reason, runs):
            self._log(f"{name} hangs: its workers are killed ({self._workers.kill(name)})")
            reason = DEAD
        if DEAD not in reason and not any(words in reason for words in ABSENT):
            return False
        self._log(f"{name} is loaded again: {reason}")
        try:
            check_served(self._workers.repository, name)
            if DEAD in reason:
                self._control.unload(name)
            self._control.load(name)
        except Exception as error:  # noqa: BLE001 — as above
            self._log(f"{name} could not be loaded: {error}")
            return False
        return True

    def _hangs(self, name: str, reason: str, runs: object) -> bool:
        """Whether no run of the model ended in this look, which gave up on it, nor in the one before."""
        is_silent = reason == GIVEN_UP and runs == self._runs(name)
        self._silent[name] = self._silent.get(name, 0) + 1 if is_silent else 0
        return self._silent[name] >= SILENT_LOOKS and self._configs[name].get("platform") != "ensemble"

    def _runs(self, name: str) -> object:
        """What changes whenever a run of the model ends, well or not."""
        try:
            found = self._client.get_inference_statistics(name)["model_stats"]
        except Exception as error:  # noqa: BLE001 — as above
            return str(error)
        return [(one["execution_count"], one["inference_stats"]["fail"]["count"]) for one in found]

    def _complaint(self, name: str) -> str:
        """What a model says to a request of zeros; empty when all its instances answered."""
        config = self._configs[name]
        try:
            for _ in range(instances(config.get("instance_group", []))):
                given = [zeros(tensor, config["max_batch_size"]) for tensor in config["input"]]
                self._client.infer(name, given, request_id=PROBE)
        except TimeoutError:
            return GIVEN_UP
        except Exception as error:  # noqa: BLE001 — as above
            return str(error)
        return ""


def zeros(tensor: dict[str, Any], max_batch_size: int) -> Any:
    """An input of zeros, or of empty strings, as the configuration describes it.

    Its shape is among those that a graph for TensorRT is warmed up with (options.py): outside of them asking would
    have the engine built anew, while requests wait.
    """
    from tritonclient.http import InferInput
    from tritonclient.utils import triton_to_np_dtype

    datatype = tensor["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    shape = [1] * (max_batch_size > 0) + [max(1, int(dim)) for dim in tensor["dims"]]
    dtype = triton_to_np_dtype(datatype)
    given = InferInput(tensor["name"], shape, datatype)
    given.set_data_from_numpy(np.full(shape, b"", dtype=object) if dtype == np.object_ else np.zeros(shape, dtype))
    return given
