"""Looking after what is published: an older version made live again, and every hash checked, before serving too.

`rollback` stages new configurations only, and commits them as `publish` commits a version: killed at any moment the
repository loads. The steps first serve both versions, then the ensemble changes, then the steps let the newer ones go:
a client that asks `<name>.graph` without a version gets the highest one that is served, which must be the one that is
live. Where two versions have other tensors or labels, no configuration can describe both, and between the first and
the last of these renames a server must not load; the next tldeploy command finishes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tldeploy import artifacts
from tldeploy.artifacts import Manifest, file_sha256
from tldeploy.errors import ArtifactError
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.canary.parts import running
from tldeploy.triton.config import LABELS_FILE
from tldeploy.triton.repository import Publication, live_version, models_of, published, refuse_beside_a_canary
from tldeploy.triton.steps import step_of
from tldeploy.triton.transaction import CONFIG_FILE, LATER_CONFIG, Check, begin, commit, recover, versions

# In the ensemble's folder: the live version, and the hashes of configurations that were written after its publication.
CONFIGURED = "configured.json"


@dataclass(frozen=True)
class Verified:
    """One version on disk. checked: how many files; damaged: those that are missing or differ, in words."""

    name: str
    version: int
    live: bool
    checked: int
    damaged: tuple[str, ...]


def rollback(repository: Path, name: str, version: int | None = None, check: Check | None = None) -> Publication:
    """Make a kept version live again: `version`, or the newest that is older than the live one.

    check: what it has to pass first, see checking.py.

    Raises ArtifactError when it is not kept or damaged, and otherwise as `publish` does; the live version then stays.
    """
    repository = repository.resolve()
    recover(repository)
    if live_version(repository / name) is None:
        published(repository, name)  # which says why
    with begin(repository) as staging:
        kept, live = versions(repository / name), live_version(repository / name) or 0
        version = _older(name, live, kept) if version is None else version
        if version not in kept:
            asked, known = f"roll {name} back to version {version}", ", ".join(map(str, kept))
            raise ArtifactError(asked, f"it is not kept (kept: {known})", "name one that is kept")
        refuse_beside_a_canary(repository, name, f"roll {name} back")
        if version != live:
            manifest = _intact(repository, name, version)
            stage_configurations(staging, repository, manifest, kept)
            commit(repository, manifest.details["models"], version, kept, check)
    return published(repository, name)


def _older(name: str, live: int, kept: list[int]) -> int:
    older = [version for version in kept if version < live]
    if not older:
        asked, found = f"roll {name} back", f"no version older than {live}, the live one, is kept"
        newer = ", ".join(f"`tldeploy rollback {name} {version}`" for version in kept if version > live)
        fix = f"{newer} goes forward" if newer else "keep more with `deploy.keep_versions`"
        raise ArtifactError(asked, found, fix)
    return older[-1]


def _intact(repository: Path, name: str, version: int) -> Manifest:
    manifest = artifacts.load(repository / name / str(version), "deploy")
    if damaged := [*_damage(repository, _version_files(manifest))]:
        found = f"version {version} is damaged: {', '.join(damaged)}"
        raise ArtifactError(f"roll {name} back", found, "roll back to another, or run `tldeploy deploy` again")
    return manifest


def stage_configurations(staging: Path, repository: Path, manifest: Manifest, kept: list[int]) -> None:
    """The configurations of a version's three models, as `publish` would write them now, and the new labels.

    manifest: the version's deploy artifact; its graph is in the repository, or staged. kept: the versions that stay.
    """
    version, details = manifest.details["version"], manifest.details
    step, graph, ensemble = details["models"]
    settings = Deploy.model_validate(details["settings"])
    places = (place / graph / str(version) / "model.onnx" for place in (staging, repository))
    signature = config.read_signature(next(filter(Path.exists, places)))
    given, live = step_of(manifest.task).input, live_version(repository / ensemble) or version
    older = [old for old in kept if old < version]
    served = [old for old in older if _shape(repository, ensemble, old) == details["shape"]] + [version]
    # Until the ensemble has changed, the steps also serve what it still pins.
    both = sorted({*served, live}) if _shape(repository, ensemble, live) == details["shape"] else served
    for file, now in ((CONFIG_FILE, both), (LATER_CONFIG, served)):
        _write(staging / step / file, config.to_text(config.step_config(step, given, signature.inputs, now, settings)))
        described = config.graph_config(graph, signature, now, settings, details.get("lengths", []))
        _write(staging / graph / file, config.to_text(described))
    _write(staging / graph / LABELS_FILE, "".join(f"{label}\n" for label in manifest.labels))
    pinned = config.ensemble_config(ensemble, (step, graph), given, signature, version, settings)
    _write(staging / ensemble / CONFIG_FILE, config.to_text(pinned))
    files = {
        f"{step}/{CONFIG_FILE}": staging / step / LATER_CONFIG,
        f"{graph}/{CONFIG_FILE}": staging / graph / LATER_CONFIG,
        f"{graph}/{LABELS_FILE}": staging / graph / LABELS_FILE,
        f"{ensemble}/{CONFIG_FILE}": staging / ensemble / CONFIG_FILE,
    }
    record_configurations(staging, ensemble, version, {place: file_sha256(path) for place, path in files.items()})


def record_configurations(staging: Path, ensemble: str, version: int, hashes: Mapping[str, str]) -> None:
    """Stage the hashes of configurations, by their place in the repository, that are not those of its publication."""
    _write(staging / ensemble / CONFIGURED, json.dumps({"version": version, "files": hashes}, indent=2) + "\n")


def _shape(repository: Path, name: str, version: int) -> str:
    try:
        return str(artifacts.read(repository / name / str(version), "deploy").details["shape"])
    except ArtifactError:
        return ""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def verify(repository: Path) -> list[Verified]:
    """Check every hash of every version that tldeploy published there and that is kept.

    Raises ArtifactError when there is no such folder.
    """
    repository = repository.resolve()
    recover(repository)
    if not repository.is_dir():
        fix = "publish one with `tldeploy deploy`"
        raise ArtifactError(f"verify {repository}", "there is no such folder", fix)
    return [_verify(repository, folder) for folder in _published(repository)]


def _published(repository: Path) -> list[Path]:
    """The folder of every version of every ensemble that tldeploy published, in order."""
    folders = {path.parent for path in repository.glob(f"*/*/{artifacts.MANIFEST}") if path.parent.name.isdecimal()}
    return sorted(folders, key=lambda folder: (folder.parent.name, int(folder.name)))


def _verify(repository: Path, folder: Path) -> Verified:
    name, version = folder.parent.name, int(folder.name)
    live = live_version(repository / name)
    try:
        manifest = artifacts.read(folder, "deploy")
    except ArtifactError as error:
        return Verified(name, version, live == version, 1, (f"{name}/{version}/{artifacts.MANIFEST}: {error.found}",))
    files = _version_files(manifest) | {f"{name}/{version}/{file}": sha for file, sha in manifest.files.items()}
    if live == version:
        files |= configuration_hashes(repository, manifest)
    damaged = tuple(_damage(repository, files))
    if live is None:
        damaged = (*damaged, f"{name}/{CONFIG_FILE} cannot be read")
    return Verified(name, version, live == version, len(files), damaged)


def check_served(repository: Path, model: str | None = None) -> list[str]:
    """Check every hash of what a server would load there; give the models that have none, of other tools.

    model: only what was published with that Triton model, an ensemble or a step of one.

    Raises ArtifactError that names the files that differ.
    """
    known: set[str] = set()
    damaged: list[str] = []
    for folder in _published(repository):
        ensemble = folder.parent
        models = models_of(ensemble)
        known |= models
        if canary := running(repository, ensemble.name):
            known |= {canary.split, canary.stable_model}
        if (model is None or model in models) and int(folder.name) in _served(ensemble, models):
            damaged += _verify(repository, folder).damaged
    if damaged:
        asked = f"serve {model or repository}"
        fix = "publish again with `tldeploy deploy --force`, or go back with `tldeploy rollback`"
        raise ArtifactError(asked, f"files are not as they were published: {'; '.join(sorted(set(damaged)))}", fix)
    return sorted({config.parent.name for config in repository.glob(f"*/{CONFIG_FILE}")} - known)


def _served(ensemble: Path, models: set[str]) -> set[int]:
    """The versions that the configurations of an ensemble and its steps name."""
    named: set[int] = set()
    for model in models:
        try:
            named |= {*config.read(ensemble.with_name(model) / CONFIG_FILE).version_policy.specific.versions}
        except ArtifactError:
            return set(versions(ensemble))  # which of them, it cannot tell
    return named


def _damage(repository: Path, files: dict[str, str]) -> Iterator[str]:
    for place, expected in sorted(files.items()):
        if not (repository / place).is_file():
            yield f"{place} is missing"
        elif (found := file_sha256(repository / place)) != expected:
            yield f"{place} has changed (sha256 {found[:12]}…, recorded {expected[:12]}…)"


def _version_files(manifest: Manifest) -> dict[str, str]:
    """Those in version folders: they stay as published for as long as the version is kept."""
    recorded: dict[str, str] = manifest.details["repository_files"]
    return {place: sha256 for place, sha256 in recorded.items() if place.count("/") > 1}


def configuration_hashes(repository: Path, manifest: Manifest) -> dict[str, str]:
    """Of the files that describe all versions: as the live version's publication wrote them, or what came after."""
    recorded: dict[str, str] = manifest.details["repository_files"]
    files = {place: sha256 for place, sha256 in recorded.items() if place.count("/") == 1}
    try:
        record: dict[str, Any] = json.loads((repository / manifest.name / CONFIGURED).read_bytes())
        return files | record["files"] if record["version"] == manifest.details["version"] else files
    except (OSError, ValueError, KeyError, TypeError):
        return files  # there is none, or it is damaged: then the configurations differ from what was published
