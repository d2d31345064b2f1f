"""Workers that die while a server runs, and their replacement.

Triton goes on saying that a model is ready when its worker is dead; every request then fails, until the model is
unloaded and loaded again. So `Watch.look`
1. asks each model for real, once for each of its instances: with zeros, empty strings, and 1 for an open dim. That a
   model refuses such a request is an answer like any other;
2. unloads and loads a model that answers that its worker is dead, and loads one that is not there;
3. leaves ensembles for the end: they have no worker, and are there again when their steps are.

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
from tldeploy.runtime.triton.address import key_headers
from tldeploy.triton.locks import locked

# In the name of a step on trial, before its version.
ON_TRIAL = ".on-trial-"
# Longer than a request that waits its turn on a busy server; one that takes longer is not taken for dead.
PATIENCE_S = 60.0
DEAD, ABSENT = "is not healthy", ("is not found", "is not ready", "has no available versions")


class Watch:
    """url: host:port of HTTP. key: for the server's model control. log: is told what was done.

    lock: what a publisher holds while it tells the server of another version.
    """

    def __init__(self, url: str, key: str, log: Callable[[str], None], lock: Path | None = None) -> None:
        import tritonclient.http

        self._client = tritonclient.http.InferenceServerClient(
            url, connection_timeout=PATIENCE_S, network_timeout=PATIENCE_S
        )
        self._headers, self._log, self._lock = key_headers("http", key), log, lock
        self._configs: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def look(self) -> list[str]:
        """Ask every model; the names of those that were loaded again."""
        alone = locked(self._lock, "watch the server", wait_s=0) if self._lock else contextlib.nullcontext()
        try:
            with alone:
                self._configs = self._read_configs()
                return [name for name in self._configs if self._replaced(name)]
        except StorageError:
            return []
        except Exception as error:  # noqa: BLE001 — the client's errors are of many kinds; the next look tries again
            self._log(f"the models cannot be watched yet: {error}")
            return []

    def _read_configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of every model that is ready, or was at an earlier look; ensembles last."""
        found = self._client.get_model_repository_index(headers=self._headers)
        there = {model["name"] for model in found if ON_TRIAL not in model["name"]}
        ready = {model["name"] for model in found if model.get("state") == "READY"}
        configs = {name: config for name, config in self._configs.items() if name in there}
        configs |= {name: self._client.get_model_config(name) for name in sorted(there & ready)}
        return dict(sorted(configs.items(), key=lambda item: item[1].get("platform") == "ensemble"))

    def _replaced(self, name: str) -> bool:
        reason = self._complaint(name)
        if DEAD not in reason and not any(words in reason for words in ABSENT):
            return False
        self._log(f"{name} is loaded again: {reason}")
        try:
            if DEAD in reason:
                self._client.unload_model(name, headers=self._headers)
            self._client.load_model(name, headers=self._headers)
        except Exception as error:  # noqa: BLE001 — as above
            self._log(f"{name} could not be loaded: {error}")
            return False
        return True

    def _complaint(self, name: str) -> str:
        """What a model says to a request of zeros; empty when all its instances answered."""
        config = self._configs[name]
        try:
            for _ in range(sum(group.get("count", 1) for group in config.get("instance_group", [])) or 1):
                self._client.infer(name, [zeros(tensor, config["max_batch_size"]) for tensor in config["input"]])
        except Exception as error:  # noqa: BLE001 — as above
            return str(error)
        return ""


def zeros(tensor: dict[str, Any], max_batch_size: int) -> Any:
    """An input of zeros, or of empty strings, as the configuration describes it."""
    from tritonclient.http import InferInput
    from tritonclient.utils import triton_to_np_dtype

    datatype = tensor["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    shape = [1] * (max_batch_size > 0) + [max(1, int(dim)) for dim in tensor["dims"]]
    dtype = triton_to_np_dtype(datatype)
    given = InferInput(tensor["name"], shape, datatype)
    given.set_data_from_numpy(np.full(shape, b"", dtype=object) if dtype == np.object_ else np.zeros(shape, dtype))
    return given
