"""Artifacts: folders that a stage wrote, each described by its manifest `tldeploy.json`.

1. `writing(folder)` gives a stage an empty folder beside the final one; `seal` hashes what lies in it and writes the
   manifest; leaving the block puts the whole folder in place. A stage that fails or is killed leaves the old artifact.
2. `load(folder, kind)` reads a manifest and checks its kind, its schema version and the hash of every file.
3. `is_current(folder, kind, inputs)` says whether a stage can be skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tldeploy.errors import ArtifactError, TldeployError, storage_errors

MANIFEST = "tldeploy.json"
SCHEMA_VERSION = 1


class Choice(BaseModel):
    """An automatic choice: what it was about, what was chosen, and why."""

    model_config = ConfigDict(frozen=True)
    about: str
    value: Any
    reason: str


class Manifest(BaseModel):
    """What an artifact is, where it came from and what it holds.

    inputs: sha256 over everything that determined the artifact (recipe sections, parents), see `fingerprint`.
    parents: kind of each parent artifact to the sha256 of its manifest.
    files: path inside the folder to sha256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    name: str
    inputs: str
    schema_version: int = SCHEMA_VERSION
    task: str = ""
    labels: list[str] = []
    preprocessing: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    decisions: list[Choice] = []
    environment: dict[str, Any] = {}
    parents: dict[str, str] = {}
    details: dict[str, Any] = {}
    files: dict[str, str] = {}

    @cached_property
    def sha256(self) -> str:
        """The manifest's own hash; through `files` and `parents` it pins everything behind the artifact."""
        return hashlib.sha256(_canonical(self.model_dump(mode="json"))).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """sha256 of a JSON-serialisable value, independent of the order of its keys."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`; when the block ends well it takes `folder`'s place, else it is removed.

    Raises StorageError when the disk is full or refuses the write.
    """
    beside = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    try:
        with storage_errors(folder):
            for stale in folder.parent.glob(f".{folder.name}.writing-*"):
                if not is_alive(int(stale.name.rpartition("-")[2])):
                    shutil.rmtree(stale, ignore_errors=True)
            beside.mkdir(parents=True)
            yield beside
            _replace_folder(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _replace_folder(new: Path, folder: Path) -> None:
    """Two renames, because a folder cannot replace a full one; `_recover` undoes the first if the second never came."""
    old = _replaced(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    old = _replaced(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file, or nothing: the content goes beside it and takes its place by one rename."""
    beside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        with storage_errors(path):
            beside.write_bytes(content.encode() if isinstance(content, str) else content)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder` into the manifest and write it there."""
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    sealed = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return sealed


def load(folder: Path, kind: str) -> Manifest:
    """Read and verify the artifact in `folder`.

    Raises ArtifactError when there is none, when it is another kind or schema version, or when a file's hash differs.
    """
    manifest = read(folder, kind)
    if found := next(damage(folder, manifest), None):
        raise ArtifactError(_asked(folder, kind), found, _remake(kind))
    return manifest


def damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the files of an artifact, in words; nothing if it is intact."""
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            yield f"{name} is missing"
        elif (actual := file_sha256(file)) != expected:
            yield f"{name} has changed (sha256 {actual[:12]}…, recorded {expected[:12]}…)"


def _asked(folder: Path, kind: str) -> str:
    return f"use {folder} as a {kind} artifact"


def _remake(kind: str) -> str:
    return f"run `tldeploy {kind}` again, or `tldeploy run` for all stages"


def read(folder: Path, kind: str) -> Manifest:
    """Read the manifest in `folder`, without a look at the files. Raises ArtifactError like `load`."""
    _recover(folder)
    path = folder / MANIFEST
    asked, remake = _asked(folder, kind), _remake(kind)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(raw, dict) and raw.get("schema_version") != SCHEMA_VERSION:
            found = f"its manifest has schema version {raw.get('schema_version')}, this tldeploy reads {SCHEMA_VERSION}"
            raise ArtifactError(asked, found, remake)
        manifest = Manifest.model_validate(raw)
    except FileNotFoundError:
        raise ArtifactError(asked, f"there is no {MANIFEST} in it", remake) from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        found = f"{MANIFEST} cannot be read ({type(error).__name__})"
        raise ArtifactError(asked, found, remake) from error
    if manifest.kind != kind:
        raise ArtifactError(asked, f"it is a {manifest.kind} artifact", "name the folder that the right stage wrote")
    return manifest


def is_current(folder: Path, kind: str, inputs: str) -> bool:
    """Whether `folder` holds an intact artifact made from exactly these inputs."""
    try:
        return load(folder, kind).inputs == inputs
    except TldeployError:
        return False
