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
4. If a server refuses, `_withdraw` puts everything back, the servers too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tldeploy.artifacts import write_file
from tldeploy.errors import ServerError, StorageError, storage_errors
from tldeploy.progress import say
from tldeploy.triton import config, running
from tldeploy.triton.candidate import lay_out
from tldeploy.triton.locks import locked

CONFIG_FILE, LATER_CONFIG = config.CONFIG_FILE, config.LATER_CONFIG
# The lock is held while a version is checked and while servers load it: for as long as a large model takes to load,
# some times over.
LOCK_WAIT_S = 600.0
_PLAN, _BEFORE = "plan.json", ".before"

# Gets a repository with nothing but the version to be published, and raises what speaks against it.
Check = Callable[[Path], None]


def _beside(repository: Path, what: str) -> Path:
    return repository.with_name(f".{repository.name}.{what}")


@contextmanager
def alone_with(repository: Path, asked: str, wait_s: float | None = None) -> Iterator[None]:
    """Hold off publishers until the block ends; what a killed one left is finished first.

    Raises StorageError, "cannot {asked}: …", when one does not finish within `wait_s` seconds, LOCK_WAIT_S by default.
    """
    wait_s = LOCK_WAIT_S if wait_s is None else wait_s
    with locked(_beside(repository, "lock"), asked, wait_s), storage_errors(repository):
        if refusal := _apply(repository):
            say(str(refusal))
        yield


@contextmanager
def begin(repository: Path) -> Iterator[Path]:
    """Give the staging folder; hold off other publishers until the block ends.

    Raises StorageError when another publisher does not finish within ten minutes.
    """
    staging = _beside(repository, "staging")
    with alone_with(repository, f"publish to {repository}"):
        shutil.rmtree(staging, ignore_errors=True)
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

    Raises what the check raises, and ServerError when a running server refuses it; nothing has changed then.
    """
    staging = _beside(repository, "staging")
    if check is not None:
        with _candidate(repository, staging, models, version) as candidate:
            check(candidate)
    running.live(repository)  # one that hangs would be noticed when it is too late to leave everything as it is
    plan = {
        "models": list(models),
        "version": version,
        "keep": list(keep),
        "new": [model for model in models if not (repository / model).exists()],
        "added": [model for model in models if (staging / model / str(version)).exists()],
        "files": [f"{model}/{path.name}" for model in models for path in _files(staging / model)],
        "withdrawn": False,
    }
    write_file(staging / _PLAN, json.dumps(plan))
    staging.rename(_beside(repository, "publishing"))
    if refusal := _apply(repository):
        raise refusal


@contextmanager
def _candidate(repository: Path, staging: Path, models: Sequence[str], version: int) -> Iterator[Path]:
    folder = _beside(repository, "candidate")
    shutil.rmtree(folder, ignore_errors=True)
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
    """Finish a publication that was cut off after its commit point, in running servers too."""
    repository = repository.resolve()
    if _beside(repository, "publishing").exists():
        with alone_with(repository, f"finish publishing to {repository}"):
            pass


def _apply(repository: Path) -> ServerError | None:
    """What a running server had against it; then everything is as it was before."""
    publishing = _beside(repository, "publishing")
    plan_file, refusal = publishing / _PLAN, None
    if not publishing.exists():
        return None
    if plan_file.exists():  # else all was done, but for removing the folder
        plan = json.loads(plan_file.read_text(encoding="utf-8"))
        with running.held(repository, LOCK_WAIT_S) as servers:
            if not plan["withdrawn"]:
                try:
                    _go_live(repository, publishing, plan, servers)
                except ServerError as error:
                    asked = f"publish version {plan['version']} of {plan['models'][-1]}"
                    fix = "what was served is served on, and the repository is as it was; look in the server's log"
                    refusal = ServerError(asked, error.found, fix)
                    plan["withdrawn"] = True
                    write_file(plan_file, json.dumps(plan))
            if plan["withdrawn"]:
                _withdraw(repository, publishing, plan, servers)
        plan_file.unlink()
    shutil.rmtree(publishing)
    return refusal


def _go_live(repository: Path, publishing: Path, plan: dict[str, Any], servers: list[running.Running]) -> None:
    models: list[str] = plan["models"]
    repository.mkdir(parents=True, exist_ok=True)
    for model in models:
        _place_version(publishing / model, repository / model)
    for server in servers:
        if not server.serves(models[-1], plan["version"]):  # as when what was cut off is done again
            server.try_out(models, plan["version"], [publishing, repository])
    for model in models:
        _place_files(publishing / model, repository / model, publishing / _BEFORE / model)
    for model in models:
        if (later := publishing / model / LATER_CONFIG).exists():
            later.replace(repository / model / CONFIG_FILE)
    for server in servers:
        server.settle(models)
    for model in models:
        for version in versions(repository / model):
            if version not in plan["keep"]:
                shutil.rmtree(repository / model / str(version))


def _withdraw(repository: Path, publishing: Path, plan: dict[str, Any], servers: list[running.Running]) -> None:
    models: list[str] = plan["models"]
    kept = [place for place in plan["files"] if place.partition("/")[0] not in plan["new"]]
    for place in sorted(kept, key=lambda place: place.endswith(CONFIG_FILE)):
        if (before := publishing / _BEFORE / place).exists():
            before.replace(repository / place)
        elif not (publishing / place).exists():
            (repository / place).unlink(missing_ok=True)
    for server in servers:
        try:
            if models[-1] in plan["new"]:
                server.forget(models)
            else:
                _take_back(repository, server, models)
        except ServerError as error:
            say(str(error))
    for model in models:
        if model in plan["new"]:
            shutil.rmtree(repository / model, ignore_errors=True)
        elif model in plan["added"]:
            shutil.rmtree(repository / model / str(plan["version"]), ignore_errors=True)


def _take_back(repository: Path, server: running.Running, models: Sequence[str]) -> None:
    version = config.read(repository / models[-1] / CONFIG_FILE).version_policy.specific.versions[-1]
    if server.serves(models[-1], version):  # it never came further than trying
        server.end_trial(models)
    else:
        server.try_out(models, version, [repository])
        server.settle(models)


def _place_version(staged: Path, model: Path) -> None:
    """A new model appears whole, by one rename; of an old one the new version, which its configuration hides as yet."""
    if not staged.exists():
        return
    if not model.exists():
        staged.replace(model)
        return
    for version in versions(staged):
        (staged / str(version)).replace(model / str(version))


def _place_files(staged: Path, model: Path, before: Path) -> None:
    """before: where those that they replace are kept."""
    for file in sorted(_files(staged), key=lambda path: path.name == CONFIG_FILE):
        if (model / file.name).exists() and not (before / file.name).exists():
            before.mkdir(parents=True, exist_ok=True)
            os.link(model / file.name, before / file.name)
        file.replace(model / file.name)


def _files(staged: Path) -> list[Path]:
    return [path for path in staged.glob("*") if path.is_file() and path.name != LATER_CONFIG]


def versions(model: Path) -> list[int]:
    """The versions of a model on disk, ascending."""
    if not model.is_dir():
        return []
    return sorted(int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdecimal())
