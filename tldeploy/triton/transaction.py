"""Publishing as a transaction: a kill at any moment leaves a repository that loads, and servers that serve it.

1. `begin` takes the repository's lock, finishes what a killed publisher left, and gives an empty staging folder. It
   lies beside the repository, on the same file system but out of Triton's sight.
2. `commit` has the staged version checked by itself, if its caller gives a check, and renames the staging folder to
   `.<repository>.publishing`: the one commit point. Killed before, nothing has happened; killed after, everything will.
3. `_apply` moves its content into the repository and tells the servers that run on it (running.py):
   the new versions; then the servers try them out; then the configurations that name them, and those staged as
   LATER_CONFIG, which no longer name what the others have just let go; then the servers settle; at last old versions
   are pruned. It can be cut off anywhere and run again, which `recover` does. Whoever reads a repository calls
   `recover` first.
4. If a server or the file system refuses, `_withdraw` puts everything back, in the servers too. Its number is never
   given again: a server that keeps answers (`deploy.cache_mb`) keeps them by name and number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tldeploy.artifacts import write_file
from tldeploy.errors import StorageError, TldeployError, storage_errors
from tldeploy.progress import say
from tldeploy.triton import config, running
from tldeploy.triton.candidate import alone, lay_out, link
from tldeploy.triton.locks import locked

CONFIG_FILE, LATER_CONFIG = config.CONFIG_FILE, config.LATER_CONFIG
# The lock is held while a version is checked and while servers load it: for as long as a large model takes to load,
# some times over.
LOCK_WAIT_S = 600.0
# What was committed is known by one of three names: as long as it is put in place, when it is, or when it is put back.
_PLAN, _LIVE, _WITHDRAWN, _BEFORE = "plan.json", "live.json", "withdrawn.json", ".before"
# What publishers keep beside the repository for as long as they hold its lock: whoever gets the lock finds it dead.
_SCRATCH = ("staging", "candidate", "retired")

# Gets a repository with nothing but the version to be published, and raises what speaks against it.
Check = Callable[[Path], None]


def _beside(repository: Path, what: str) -> Path:
    return repository.with_name(f".{repository.name}.{what}")


def next_version(repository: Path, models: Sequence[str]) -> int:
    """One more than any number that the models, the last of which is the ensemble, have or had before a server."""
    known = (version for model in models for version in versions(repository / model))
    return 1 + max((_withdrawn_versions(repository).get(models[-1], 0), *known))


def _withdrawn_versions(repository: Path) -> dict[str, int]:
    """By ensemble, the highest number that was withdrawn from a running server."""
    try:
        found: dict[str, int] = json.loads(_beside(repository, "withdrawn").read_bytes())
        return found
    except FileNotFoundError:
        return {}


def can_hold_off(repository: Path) -> bool:
    """Whether this user may write the lock that publishers take."""
    lock = _beside(repository, "lock")
    return os.access(lock if lock.exists() else lock.parent, os.W_OK)


@contextmanager
def alone_with(repository: Path, asked: str, wait_s: float | None = None) -> Iterator[None]:
    """Hold off publishers until the block ends; what a killed one left is finished first, or removed.

    Raises StorageError, "cannot {asked}: …", when one does not finish within `wait_s` seconds, LOCK_WAIT_S by default.
    """
    wait_s = LOCK_WAIT_S if wait_s is None else wait_s
    with locked(_beside(repository, "lock"), asked, wait_s), storage_errors(repository):
        if refusal := _finish(repository):
            say(str(refusal))
        for what in _SCRATCH:
            shutil.rmtree(_beside(repository, what), ignore_errors=True)
        yield


@contextmanager
def begin(repository: Path) -> Iterator[Path]:
    """Give the staging folder; hold off other publishers until the block ends.

    Raises StorageError when another publisher does not finish within ten minutes.
    """
    staging = _beside(repository, "staging")
    with alone_with(repository, f"publish to {repository}"):
        staging.mkdir()
        _refuse_another_disk(staging, repository)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _refuse_another_disk(staging: Path, repository: Path) -> None:
    """A rename between file systems is a copy, and a copy can be cut off."""
    if repository.is_dir() and repository.stat().st_dev != staging.stat().st_dev:
        staging.rmdir()
        found = "it is a mount point: what is built beside it cannot be renamed into it"
        raise StorageError(f"publish to {repository}", found, "publish to a folder inside that mount")


def commit(
    repository: Path, models: Sequence[str], version: int, keep: Sequence[int], check: Check | None = None
) -> None:
    """Make the staged models live, here and in every server that runs on the repository.

    models: in the order in which they are to appear, those that others need first.
    version: the one to be live; it is staged, or in the repository already.
    keep: the versions that stay on disk, `version` among them.
    check: what it has to pass first.

    Raises what the check raises, ServerError when a running server hangs or refuses it, and StorageError when the file
    system does. Nothing has changed then; if the file system refuses that as well, the next command puts it back.
    """
    staging = _beside(repository, "staging")
    if check is not None:
        with _candidate(repository, staging, models, version) as candidate:
            check(candidate)
    with running.held(repository, LOCK_WAIT_S) as servers:  # one that hangs is noticed while nothing has changed
        files = [f"{model}/{path.name}" for model in models for path in _files(staging / model)]
        staged = [model for model in models if (staging / model / str(version)).exists()]
        plan = {
            "models": list(models),
            "version": version,
            "keep": list(keep),
            "new": [model for model in models if not (repository / model).exists()],
            "added": [model for model in staged if not (repository / model / str(version)).exists()],
            "files": files,
            "created": [place for place in files if not (repository / place).exists()],
        }
        write_file(staging / _PLAN, json.dumps(plan))
        staging.rename(_beside(repository, "publishing"))
        refusal = _apply(repository, servers)
    if refusal:
        raise refusal


@contextmanager
def _candidate(repository: Path, staging: Path, models: Sequence[str], version: int) -> Iterator[Path]:
    folder = _beside(repository, "candidate")
    folder.mkdir()
    try:
        for model in models:
            lay_out(model, version, [staging, repository], folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def retire(repository: Path, models: Sequence[str]) -> None:
    """Take models away, from running servers first. models: those that need others come first."""
    gone = _beside(repository, "retired")
    with alone_with(repository, f"take {models[0]} away"), running.held(repository, LOCK_WAIT_S) as servers:
        for server in servers:
            server.retire(models)
        for model in filter(Path.exists, (repository / name for name in models)):
            shutil.rmtree(gone, ignore_errors=True)
            model.rename(gone)  # at once: a server that starts meanwhile finds all of it, or nothing
        shutil.rmtree(gone, ignore_errors=True)


def recover(repository: Path) -> None:
    """Finish a publication that was cut off after its commit point, in running servers too; remove what is left of one
    that was cut off before, unless somebody publishes just now."""
    repository = repository.resolve()
    if _beside(repository, "publishing").exists():
        with alone_with(repository, f"finish publishing to {repository}"):
            pass
    elif any(_beside(repository, what).exists() for what in _SCRATCH):
        with suppress(StorageError), alone_with(repository, f"tidy up beside {repository}", wait_s=0):
            pass


def _finish(repository: Path) -> TldeployError | None:
    """Apply what was committed and cut off. Returns and raises as `_apply` does."""
    if not _beside(repository, "publishing").exists():
        return None
    with running.held(repository, LOCK_WAIT_S) as servers:
        return _apply(repository, servers)


def _apply(repository: Path, servers: list[running.Running]) -> TldeployError | None:
    """What a server or the file system had against it; then everything is as it was before."""
    publishing, refusal = _beside(repository, "publishing"), None
    planned, withdrawn, live = (publishing / name for name in (_PLAN, _WITHDRAWN, _LIVE))
    if planned.exists():
        plan = json.loads(planned.read_bytes())
        try:
            _go_live(repository, publishing, plan, servers)
            planned.rename(live)
        except (TldeployError, OSError) as error:
            planned.rename(withdrawn)  # a full disk has room for that
            refusal = _refusal(plan, error)
    if withdrawn.exists():
        _withdraw(repository, publishing, json.loads(withdrawn.read_bytes()), servers)
    elif live.exists():
        _prune(repository, json.loads(live.read_bytes()))
    shutil.rmtree(publishing)
    return refusal


def _refusal(plan: dict[str, Any], error: TldeployError | OSError) -> TldeployError:
    asked = f"publish version {plan['version']} of {plan['models'][-1]}"
    stays = "what was served is served on, and the repository is as it was"
    if isinstance(error, TldeployError):
        return type(error)(asked, error.found, f"{stays}; look in the server's log")
    return StorageError(asked, f"the file system refuses it: {error}", f"{stays}; free some space, or see who owns it")


def _go_live(repository: Path, publishing: Path, plan: dict[str, Any], servers: list[running.Running]) -> None:
    models: list[str] = plan["models"]
    repository.mkdir(parents=True, exist_ok=True)
    for model in models:
        _place_version(publishing / model, repository / model, publishing / _BEFORE / model)
    pinned = alone(models[-1], plan["version"], [publishing, repository])
    for server in servers:
        if not server.serves(pinned):  # as when what was cut off is done again
            server.try_out(models, plan["version"], [publishing, repository])
    for model in models:
        _place_files(publishing / model, repository / model, publishing / _BEFORE / model)
    for model in models:
        if (later := publishing / model / LATER_CONFIG).exists():
            later.replace(repository / model / CONFIG_FILE)
    for server in servers:
        server.settle(models)


def _prune(repository: Path, plan: dict[str, Any]) -> None:
    for model in plan["models"]:
        for version in versions(repository / model):
            if version not in plan["keep"]:
                try:
                    shutil.rmtree(repository / model / str(version))
                except OSError as error:
                    say(f"{model}/{version} is not needed any more, and cannot be removed: {error}")


def _withdraw(repository: Path, publishing: Path, plan: dict[str, Any], servers: list[running.Running]) -> None:
    """It can be cut off anywhere and run again, too: what is put back is not used up while it is needed."""
    models: list[str] = plan["models"]
    if servers and plan["added"]:
        known = _withdrawn_versions(repository)
        known[models[-1]] = max(known.get(models[-1], 0), plan["version"])
        with suppress(StorageError):  # a full disk does not keep anything from being put back
            write_file(_beside(repository, "withdrawn"), json.dumps(known))
    kept = [place for place in plan["files"] if place.partition("/")[0] not in plan["new"]]
    for place in sorted(kept, key=lambda place: place.endswith(CONFIG_FILE)):
        if (before := publishing / _BEFORE / place).exists():
            _copy(before, repository / place)
        elif place in plan["created"]:
            (repository / place).unlink(missing_ok=True)
    for server in servers:
        try:
            _take_back(repository, server, models, plan["new"])
        except (TldeployError, OSError) as error:
            say(str(error))
    for model in models:
        version = f"{model}/{plan['version']}"
        if model in plan["new"]:
            shutil.rmtree(repository / model, ignore_errors=True)
        elif model in plan["added"] or (publishing / _BEFORE / version).exists():
            shutil.rmtree(repository / version, ignore_errors=True)
        if (before := publishing / _BEFORE / version).exists():
            before.replace(repository / version)


def _take_back(repository: Path, server: running.Running, models: Sequence[str], new: Sequence[str]) -> None:
    if models[-1] not in new:
        described = config.read(repository / models[-1] / CONFIG_FILE)
        asked = running.asked_by(described)  # by what is served again, which can ask other models than what was refused
        if not server.serves(described):  # else it never came further than trying
            server.try_out(asked, described.version_policy.specific.versions[-1], [repository])
        server.settle([*(model for model in models if model not in {*new, *asked}), *asked])
    server.forget([model for model in models if model in new])
    server.end_trial(models)


def _place_version(staged: Path, model: Path, before: Path) -> None:
    """A new model appears whole, by one rename; of an old one the new version, which its configuration hides as yet.

    before: where a folder that is in its place is kept, which a command that was killed can have left.
    """
    if not staged.exists():
        return
    if not model.exists():
        staged.replace(model)
        return
    for version in map(str, versions(staged)):
        if (model / version).exists():
            before.mkdir(parents=True, exist_ok=True)
            (model / version).replace(before / version)
        (staged / version).replace(model / version)


def _place_files(staged: Path, model: Path, before: Path) -> None:
    """before: where those that they replace are kept."""
    for file in sorted(_files(staged), key=lambda path: path.name == CONFIG_FILE):
        if (model / file.name).exists() and not (before / file.name).exists():
            before.mkdir(parents=True, exist_ok=True)
            _copy(model / file.name, before / file.name)
        file.replace(model / file.name)


def _copy(file: Path, to: Path) -> None:
    """At once or not at all, and again if it was cut off."""
    new = to.with_name(f"{to.name}.new")
    new.unlink(missing_ok=True)
    link(file, new)
    new.replace(to)
    new.unlink(missing_ok=True)  # a rename does nothing where both are one file already


def _files(staged: Path) -> list[Path]:
    return [path for path in staged.glob("*") if path.is_file() and path.name != LATER_CONFIG]


def versions(model: Path) -> list[int]:
    """The versions of a model on disk, ascending."""
    if not model.is_dir():
        return []
    return sorted(int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdecimal())
