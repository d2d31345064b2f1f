"""Servers that run on a repository, and how they take another version without losing a request.

A server that follows its repository keeps a folder beside it, `.<repository>.serving-<id>`, for as long as it runs:
server.json says where it is and holds its key, and is for its owner's eyes only; lock keeps its watch and a publisher
apart; and it is a second model repository of the server's, for models on trial.

1. `held` gives the servers that run on this machine, each with its lock. What a dead one left is removed. One on
   another machine that shares the folder is left to itself: it looks at the repository now and then (following.py).
2. `try_out` loads the version's steps on trial, under names of their own, then the ensemble on top of them. Old steps
   and old ensemble serve until the new ensemble is there, and then for as long as they have requests in flight. It
   does not matter whether one configuration could describe both versions. If the server refuses, nothing has changed.
3. `settle` loads the steps by their own names, as the repository describes them now, then the ensemble on top of
   these, and unloads the ones on trial.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy.artifacts import is_alive
from tldeploy.errors import ServerError
from tldeploy.runtime.triton.address import key_headers
from tldeploy.triton import config
from tldeploy.triton.candidate import alone, lay_out
from tldeploy.triton.config import CONFIG_FILE
from tldeploy.triton.locks import locked
from tldeploy.triton.log import without_traceback

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig
    from tritonclient.http import InferenceServerClient

# In the name of a step on trial, before its version.
ON_TRIAL = ".on-trial-"
DESCRIPTION, LOCK = "server.json", "lock"
# Loading a model may take as long as it does when a server starts.
LOADS_WITHIN_S = 120.0
ANSWERS_WITHIN_S = 30.0


@dataclass(frozen=True)
class Running:
    """A server: its id, its host:port of HTTP, the key of its model control, the process that owns it, and host:port of
    its metrics."""

    repository: str
    id: str
    url: str
    key: str
    pid: int
    machine: str
    metrics: str = ""

    @property
    def folder(self) -> Path:
        return folder_of(Path(self.repository), self.id)

    @property
    def lock(self) -> Path:
        return self.folder / LOCK

    def describe(self) -> None:
        """Write server.json, at once or not at all."""
        new = self.folder / f"{DESCRIPTION}.new"
        new.touch(mode=0o600)
        new.write_text(json.dumps(asdict(self)), encoding="utf-8")
        new.replace(self.folder / DESCRIPTION)

    def answers(self) -> bool:
        """Whether it listens. Raises ServerError when it takes the connection and does not answer."""
        return bool(_id_at(self.url) == self.id)

    def serves(self, ensemble: str, version: int) -> bool:
        """Whether requests to `ensemble` are answered by that version, and by steps that are not on trial."""
        with self._client() as client:
            try:
                steps = client.get_model_config(ensemble)["ensemble_scheduling"]["step"]
            except Exception:  # noqa: BLE001 — the client's errors are of many kinds; it does not serve it
                return False
        pinned = {(ON_TRIAL in step["model_name"], int(step["model_version"])) for step in steps}
        return pinned == {(False, version)}

    def try_out(self, models: Sequence[str], version: int, places: Sequence[Path]) -> None:
        """Answer requests from that version, by steps on trial. Raises ServerError when the server refuses it.

        models: the steps, and the ensemble last. places: where the version's files are, see candidate.py.
        """
        *steps, ensemble = models
        for step in steps:
            name = f"{step}{ON_TRIAL}{version}"
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self._load(lay_out(step, version, places, self.folder, name))
        described = alone(ensemble, version, places)
        for pinned in described.ensemble_scheduling.step:
            if pinned.model_name in steps:
                pinned.model_name += f"{ON_TRIAL}{version}"
        self._load(described)

    def settle(self, models: Sequence[str]) -> None:
        """Answer requests from the models as the repository describes them. Raises ServerError when it refuses."""
        for model in models:
            self._load(config.read(Path(self.repository) / model / CONFIG_FILE))
        self.end_trial(models)

    def end_trial(self, models: Sequence[str]) -> None:
        for step in models[:-1]:
            for trial in self.folder.glob(f"{step}{ON_TRIAL}*"):
                self._unload(trial.name)
                shutil.rmtree(trial, ignore_errors=True)

    def forget(self, models: Sequence[str]) -> None:
        """Serve the models no longer."""
        for model in reversed(models):
            self._unload(model)
        self.end_trial(models)

    def retire(self, models: Sequence[str]) -> None:
        """Serve the models no longer, one after the other: each first answers what it is still asked."""
        for model in models:
            self._unload(model)
            deadline = time.monotonic() + LOADS_WITHIN_S
            while self._holds(model) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _holds(self, model: str) -> bool:
        with self._client() as client, contextlib.suppress(Exception):  # the server has gone
            found = client.get_model_repository_index(headers=key_headers("http", self.key))
            return any(each["name"] == model and each.get("state") in {"READY", "UNLOADING"} for each in found)
        return False

    def _load(self, described: ModelConfig) -> None:
        """By its configuration in words: that of a file is taken only if the file is newer than what is loaded."""
        from google.protobuf.json_format import MessageToJson

        text = MessageToJson(described, preserving_proto_field_name=True)
        try:
            with self._client() as client:
                client.load_model(described.name, headers=key_headers("http", self.key), config=text)
        except Exception as error:
            if self._is_gone():  # then there is nobody to tell
                return
            found = f"the running server at {self.url} refuses {described.name}: {without_traceback(str(error))}"
            raise ServerError(f"serve {described.name}", found, "look at the server's log") from error

    def _unload(self, model: str) -> None:
        with self._client() as client, contextlib.suppress(Exception):  # one that was never loaded
            client.unload_model(model, headers=key_headers("http", self.key))

    def _is_gone(self) -> bool:
        try:
            return not self.answers()
        except ServerError:
            return False

    @contextlib.contextmanager
    def _client(self) -> Iterator[InferenceServerClient]:
        from tritonclient.http import InferenceServerClient

        with InferenceServerClient(
            self.url, connection_timeout=LOADS_WITHIN_S, network_timeout=LOADS_WITHIN_S
        ) as client:
            yield client


def folder_of(repository: Path, server_id: str) -> Path:
    return repository.with_name(f".{repository.name}.serving-{server_id}")


def make_place(repository: Path, server_id: str) -> Path | None:
    """The folder of a server that is about to start, or None where nothing can be written beside the repository."""
    folder = folder_of(repository, server_id)
    try:
        folder.mkdir(mode=0o700)
    except OSError:
        return None
    return folder


def described(repository: Path) -> list[Running]:
    """The servers that some process of this machine runs, or is about to. What dead ones left is removed."""
    found: list[Running] = []
    for file in sorted(repository.parent.glob(f".{repository.name}.serving-*/{DESCRIPTION}")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # it stops just now
            server = Running(**{**json.loads(file.read_bytes()), "repository": str(repository)})
            if server.machine == socket.gethostname() and not is_alive(server.pid):
                shutil.rmtree(server.folder, ignore_errors=True)
            elif server.machine == socket.gethostname():
                found.append(server)
    return found


def live(repository: Path) -> list[Running]:
    """Those that listen; one that is starting will look at the repository itself. Raises ServerError when one hangs."""
    return [server for server in described(repository) if server.answers()]


@contextlib.contextmanager
def held(repository: Path, wait_s: float) -> Iterator[list[Running]]:
    """The same, none of them being changed by another meanwhile.

    Raises also StorageError, when another holds one for longer than `wait_s` seconds.
    """
    with contextlib.ExitStack() as stack:
        servers = live(repository)
        for server in servers:
            stack.enter_context(locked(server.lock, f"tell the server at {server.url}", wait_s))
        yield servers


def _id_at(url: str) -> Any:
    """The id of the server that listens there, None when none does."""
    connection = http.client.HTTPConnection(url, timeout=ANSWERS_WITHIN_S)
    try:
        connection.request("GET", "/v2")
        return json.loads(connection.getresponse().read()).get("name")
    except TimeoutError:
        found = f"the running server at {url} takes the connection, but gives no answer within {ANSWERS_WITHIN_S:g} s"
        raise ServerError("tell it of another version", found, "stop it, and run the same command again") from None
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return None
    finally:
        connection.close()
