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
4. A server that stops first removes its description (`leave`), so that nobody tells it any more, then ends, and then
   removes its folder.
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
from tldeploy.errors import ServerError, StorageError
from tldeploy.triton import config
from tldeploy.triton.candidate import alone, lay_out
from tldeploy.triton.config import CONFIG_FILE, ENGINES_WITHIN_S, for_tensorrt
from tldeploy.triton.control import ModelControl
from tldeploy.triton.locks import locked
from tldeploy.triton.log import without_traceback

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

# In the name of a step on trial, before its version.
ON_TRIAL = ".on-trial-"
DESCRIPTION, LOCK = "server.json", "lock"
# Loading a model may take as long as it does when a server starts.
LOADS_WITHIN_S = 120.0
ANSWERS_WITHIN_S = 30.0
REMOVED_WITHIN_S = 10.0
# Between making its folder and describing itself a server takes moments; to stop, some seconds.
FORSAKEN_AFTER_S = 60.0


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

    def hold(self, asked: str, wait_s: float) -> contextlib.AbstractContextManager[None]:
        """Keep others from changing it. Raises StorageError as `locked` does, FileNotFoundError when it has stopped."""
        return locked(self.lock, asked, wait_s, new_folder=False)

    def leave(self) -> None:
        """From now on nobody tells it of other versions."""
        (self.folder / DESCRIPTION).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove its folder, when it has ended; whoever has it in hand for long leaves that to the next command."""
        with contextlib.suppress(FileNotFoundError, StorageError), self.hold("stop serving", REMOVED_WITHIN_S):
            shutil.rmtree(self.folder, ignore_errors=True)

    def serves(self, described: ModelConfig) -> bool:
        """Whether requests to that ensemble are answered by the models and versions that its configuration pins."""
        steps = (self.served_by(described.name) or {}).get("ensemble_scheduling", {}).get("step", [])
        served = {(step["model_name"], int(step["model_version"])) for step in steps}
        return served == {(step.model_name, step.model_version) for step in described.ensemble_scheduling.step}

    def served_by(self, model: str) -> dict[str, Any] | None:
        """The configuration that the model is served by now; None when it is not served."""
        with self._control() as control:
            try:
                found: dict[str, Any] = control.client.get_model_config(model)
                return found
            except Exception:  # noqa: BLE001 — the client's errors are of many kinds
                return None

    def try_out(self, models: Sequence[str], version: int, places: Sequence[Path]) -> None:
        """Answer requests from that version, by steps on trial.

        models: the steps, and the ensemble last. places: where the version's files are, see candidate.py.

        Raises ServerError when the server refuses it, ArtifactError when files are missing.
        """
        try:
            self._try_out(models, version, places)
        except OSError as error:
            if not self._is_gone():  # then its folder is gone, too
                found = f"its files cannot be put before the server at {self.url}: {error}"
                raise ServerError(f"serve {models[-1]}", found, "free some space, or see who owns them") from error

    def _try_out(self, models: Sequence[str], version: int, places: Sequence[Path]) -> None:
        *steps, ensemble = models
        for step in steps:
            name = f"{step}{ON_TRIAL}{version}"
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self._load_as(lay_out(step, version, places, self.folder, name))
        described = alone(ensemble, version, places)
        for pinned in described.ensemble_scheduling.step:
            if pinned.model_name in steps:
                pinned.model_name += f"{ON_TRIAL}{version}"
        self._load_as(described)

    def settle(self, models: Sequence[str]) -> None:
        """Answer requests from the models as the repository describes them. Raises ServerError when it refuses."""
        for model in models:
            self._load_as(config.read(Path(self.repository) / model / CONFIG_FILE))
        self.end_trial(models)

    def end_trial(self, models: Sequence[str]) -> None:
        """Only when no ensemble asks the models on trial any more."""
        for step in models:
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
        with self._control() as control, contextlib.suppress(Exception):  # the server has gone
            return any(
                each["name"] == model and each.get("state") in {"READY", "UNLOADING"} for each in control.index()
            )
        return False

    def _load_as(self, described: ModelConfig) -> None:
        """By its configuration in words: that of a file is taken only if the file is newer than what is loaded."""
        try:
            with self._control(ENGINES_WITHIN_S if for_tensorrt(described) else LOADS_WITHIN_S) as control:
                control.load_as(described)
        except Exception as error:
            if self._is_gone():  # then there is nobody to tell
                return
            found = f"the running server at {self.url} refuses {described.name}: {without_traceback(str(error))}"
            raise ServerError(f"serve {described.name}", found, "look at the server's log") from error

    def _unload(self, model: str) -> None:
        with self._control() as control, contextlib.suppress(Exception):  # one that was never loaded
            control.unload(model)

    def _is_gone(self) -> bool:
        """Or is about to be."""
        try:
            return not (self.folder / DESCRIPTION).exists() or not self.answers()
        except ServerError:
            return False

    def _control(self, timeout_s: float = LOADS_WITHIN_S) -> ModelControl:
        return ModelControl(self.url, self.key, timeout_s)


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
    for folder in sorted(repository.parent.glob(f".{repository.name}.serving-*")):
        try:
            known = json.loads((folder / DESCRIPTION).read_bytes())
            server = Running(**{**known, "repository": str(repository)})
        except FileNotFoundError:
            _remove_forsaken(folder)
        except (OSError, ValueError, TypeError):  # another user's
            continue
        else:
            if server.machine == socket.gethostname() and not is_alive(server.pid):
                shutil.rmtree(server.folder, ignore_errors=True)
            elif server.machine == socket.gethostname():
                found.append(server)
    return found


def _remove_forsaken(folder: Path) -> None:
    """A folder without a description, unless its server is just starting or stopping, or somebody has it in hand."""
    with contextlib.suppress(OSError, StorageError):
        if time.time() - folder.stat().st_mtime > FORSAKEN_AFTER_S:
            with locked(folder / LOCK, "remove what a server left", wait_s=0, new_folder=False):
                shutil.rmtree(folder, ignore_errors=True)


def live(repository: Path) -> list[Running]:
    """Those that listen; one that is starting will look at the repository itself. Raises ServerError when one hangs."""
    return [server for server in described(repository) if server.answers()]


@contextlib.contextmanager
def held(repository: Path, wait_s: float) -> Iterator[list[Running]]:
    """The same, none of them being changed by another meanwhile.

    Raises also StorageError, when another holds one for longer than `wait_s` seconds.
    """
    with contextlib.ExitStack() as stack:
        servers = []
        for server in live(repository):
            with contextlib.suppress(FileNotFoundError):  # it has just stopped
                stack.enter_context(server.hold(f"tell the server at {server.url}", wait_s))
                servers.append(server)
        yield servers


def asked_by(ensemble: ModelConfig) -> list[str]:
    """The models that an ensemble asks, and itself: in the order in which they are to be loaded."""
    return [*dict.fromkeys(step.model_name for step in ensemble.ensemble_scheduling.step), ensemble.name]


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
