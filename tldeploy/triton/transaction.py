"""Publishing as a transaction: a kill at any moment leaves a repository that loads.

1. `begin` takes the repository's lock, finishes what a killed publisher left, and gives an empty staging folder. It
   lies beside the repository, on the same file system but out of Triton's sight.
2. `commit` renames it to `.<repository>.publishing`: the one commit point. Killed before, nothing has happened;
   killed after, everything will.
3. `_apply` moves its content into the repository, first the new versions, then the configurations that name them,
   then those staged as LATER_CONFIG, which no longer name what the others have just let go, and prunes old versions.
   It can be cut off anywhere and run again, which `recover` does. Whoever reads a repository calls `recover` first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tldeploy.artifacts import write_file
from tldeploy.errors import StorageError, storage_errors
from tldeploy.triton.locks import locked

CONFIG_FILE = "config.pbtxt"
LATER_CONFIG = "later.pbtxt"
LOCK_WAIT_S = 60.0
_PLAN = "plan.json"


def _beside(repository: Path, what: str) -> Path:
    return repository.with_name(f".{repository.name}.{what}")


@contextmanager
def begin(repository: Path) -> Iterator[Path]:
    """Give the staging folder; hold off other publishers until the block ends.

    Raises StorageError when another publisher does not finish within a minute.
    """
    staging = _beside(repository, "staging")
    with locked(_beside(repository, "lock"), f"publish to {repository}", LOCK_WAIT_S), storage_errors(repository):
        _apply(repository)
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


def commit(repository: Path, models: Sequence[str], keep: Sequence[int]) -> None:
    """Make the staged models live.

    models: in the order in which they are to appear, those that others need first.
    keep: the versions that stay on disk, the staged one among them.
    """
    staging = _beside(repository, "staging")
    write_file(staging / _PLAN, json.dumps({"models": list(models), "keep": list(keep)}))
    staging.rename(_beside(repository, "publishing"))
    _apply(repository)


def recover(repository: Path) -> None:
    """Finish a publication that was cut off after its commit point."""
    repository = repository.resolve()
    if _beside(repository, "publishing").exists():
        asked = f"finish publishing to {repository}"
        with locked(_beside(repository, "lock"), asked, LOCK_WAIT_S), storage_errors(repository):
            _apply(repository)


def _apply(repository: Path) -> None:
    publishing = _beside(repository, "publishing")
    plan_file = publishing / _PLAN
    if not publishing.exists():
        return
    if plan_file.exists():  # else all was done, but for removing the folder
        plan = json.loads(plan_file.read_text(encoding="utf-8"))
        repository.mkdir(parents=True, exist_ok=True)
        for model in plan["models"]:
            _place_version(publishing / model, repository / model)
        for model in plan["models"]:
            _place_files(publishing / model, repository / model)
        for model in plan["models"]:
            if (later := publishing / model / LATER_CONFIG).exists():
                later.replace(repository / model / CONFIG_FILE)
        for model in plan["models"]:
            for version in versions(repository / model):
                if version not in plan["keep"]:
                    shutil.rmtree(repository / model / str(version))
        plan_file.unlink()
    shutil.rmtree(publishing)


def _place_version(staged: Path, model: Path) -> None:
    """A new model appears whole, by one rename; of an old one the new version, which its configuration hides as yet."""
    if not staged.exists():
        return
    if not model.exists():
        staged.replace(model)
        return
    for version in versions(staged):
        (staged / str(version)).replace(model / str(version))


def _place_files(staged: Path, model: Path) -> None:
    files = [path for path in staged.glob("*") if path.is_file() and path.name != LATER_CONFIG]
    for file in sorted(files, key=lambda path: path.name == CONFIG_FILE):
        file.replace(model / file.name)


def versions(model: Path) -> list[int]:
    """The versions of a model on disk, ascending."""
    if not model.is_dir():
        return []
    return sorted(int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdecimal())
