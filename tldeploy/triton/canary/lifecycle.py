"""A canary's life: started beside a live version, given another share, and promoted or dropped.

`start` publishes the canary under a name of its own, checked as any version is; then the live version gets a second
name; then the splitting step takes the first one over. Each is a transaction, and the last is what counts.
`promote` lets the live version's own ensemble answer again, and publishes the canary's files as the next version;
`drop` does the first of these. Both then take away what the canary added.

A lock of their own keeps two of these apart. Killed at any moment, every request is answered and the repository loads;
`promote` goes on with what is there, and `start` and `drop` clear it away.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tldeploy import artifacts
from tldeploy.artifacts import file_sha256
from tldeploy.errors import ArtifactError, TldeployError
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.canary.parts import Canary, canary_of, running, stage_split, stage_stable
from tldeploy.triton.config import CONFIG_FILE, Signature
from tldeploy.triton.keeping import CONFIGURED, configuration_hashes, record_configurations, stage_configurations
from tldeploy.triton.locks import locked
from tldeploy.triton.repository import (
    Publication,
    kept_versions,
    publish,
    published,
    refuse_beside_a_canary,
    staged_files,
)
from tldeploy.triton.transaction import LOCK_WAIT_S, Check, begin, commit, next_version, recover, retire, versions


def start(
    export: Path,
    repository: Path,
    name: str,
    settings: Deploy,
    share: float,
    lineage: Mapping[str, Any] | None = None,
    check: Check | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> tuple[Canary, Publication]:
    """Let the export artifact answer a share (0 .. 1) of the requests to `name`.

    Raises ArtifactError when nothing is live by that name, or what is has other labels, UsageError when it has a canary
    already, and otherwise as `publish` does.
    """
    repository = repository.resolve()
    asked = f"start a canary of {name}"
    with _alone(repository, asked):
        live = published(repository, name)
        refuse_beside_a_canary(repository, name, asked)
        labels = artifacts.load(export, "export").labels
        if labels != live.manifest.labels:
            theirs = ", ".join(live.manifest.labels)
            found = f"it has the labels {', '.join(labels)}, version {live.version} has {theirs}"
            raise ArtifactError(asked, found, "their answers cannot be compared: deploy it without --canary")
        Canary(name, live.version, "", share)  # refuses what is no share, before anything is published
        _clear(repository, name)
        try:
            beside = publish(export, repository, name, settings, lineage, check, tuning, as_canary=True)
            canary = Canary(name, live.version, beside.manifest.sha256[:12], share)
            with begin(repository) as staging:
                stage_stable(staging, canary, live.manifest, _signature(repository, live))
                commit(repository, [canary.stable_model], canary.stable, [canary.stable])
            _split(repository, canary, asked)
        except TldeployError:
            _clear(repository, name)
            raise
    return canary, beside


def change_share(repository: Path, name: str, share: float) -> Canary:
    """Give the canary another share (0 .. 1) of the requests; what was counted before stays."""
    repository = repository.resolve()
    asked = f"change the share of {name}'s canary"
    with _alone(repository, asked):
        before = find(repository, name)
        canary = Canary(name, before.stable, before.tag, share)
        _split(repository, canary, asked)
    return canary


def promote(repository: Path, name: str) -> Publication:
    """Make the canary the live version of `name`, with the next number; go on where that was cut off."""
    repository = repository.resolve()
    with _alone(repository, f"promote the canary of {name}"):
        recover(repository)
        if not (repository / canary_of(name) / CONFIG_FILE).is_file():
            find(repository, name)  # which says that there is none
        _restore(repository, name)
        beside, live = published(repository, canary_of(name)), published(repository, name)
        if beside.manifest.inputs != live.manifest.inputs:  # else it has been published already
            with begin(repository) as staging:
                models: list[str] = live.manifest.details["models"]
                version = next_version(repository, models)
                kept = kept_versions(repository, name, version, beside.manifest.details["settings"]["keep_versions"])
                _stage_version(staging, repository, beside, models, version, kept)
                commit(repository, models, version, kept)
        _clear(repository, name)
    return published(repository, name)


def drop(repository: Path, name: str) -> Publication:
    """Let the live version of `name` answer everything again, and take the canary away, or what is left of it."""
    repository = repository.resolve()
    with _alone(repository, f"drop the canary of {name}"):
        recover(repository)
        if not _added(repository, name):
            find(repository, name)  # which says that there is none
        _restore(repository, name)
        _clear(repository, name)
    return published(repository, name)


def find(repository: Path, name: str) -> Canary:
    """The canary that answers a share of the requests to `name`. Raises ArtifactError when there is none."""
    live = published(repository, name)
    canary = running(repository, name)
    if canary is None:
        found = f"version {live.version} answers every request to it"
        raise ArtifactError(f"find a canary of {name}", found, "start one with `tldeploy deploy RECIPE --canary 10%`")
    return canary


def _alone(repository: Path, asked: str) -> AbstractContextManager[None]:
    return locked(repository.with_name(f".{repository.name}.canary-lock"), asked, LOCK_WAIT_S)


def _split(repository: Path, canary: Canary, asked: str) -> None:
    """Make <name> ask the splitting step."""
    with begin(repository) as staging:
        live = published(repository, canary.name)
        if live.version != canary.stable:
            found = f"version {live.version} has become live meanwhile"
            raise ArtifactError(asked, found, "run the same command again")
        stage_split(staging, canary, live.manifest, _signature(repository, live))
        if (repository / canary.split / str(canary.stable)).exists():  # the share alone is another
            shutil.rmtree(staging / canary.split / str(canary.stable))
        stable = f"{canary.stable_model}/{CONFIG_FILE}"
        hashes = configuration_hashes(repository, live.manifest) | {stable: file_sha256(repository / stable)}
        record_configurations(staging, canary.name, canary.stable, hashes | staged_files(staging))
        commit(repository, [canary.split, canary.name], canary.stable, versions(repository / canary.name))


def _restore(repository: Path, name: str) -> None:
    """Let the live version's own ensemble answer again, if a canary takes a share."""
    if running(repository, name):
        with begin(repository) as staging:
            live = published(repository, name)
            kept = versions(repository / name)
            stage_configurations(staging, repository, live.manifest, kept)
            commit(repository, live.manifest.details["models"], live.version, kept)
    between = [model for model in _added(repository, name) if not model.startswith(canary_of(name))]
    if between:
        retire(repository, between)


def _stage_version(
    staging: Path, repository: Path, beside: Publication, models: list[str], version: int, kept: list[int]
) -> None:
    """The canary's files as a version of the live one's models, sealed as their deploy artifact."""
    for theirs, ours in zip(beside.manifest.details["models"], models, strict=True):
        place = repository / theirs / str(beside.version)
        shutil.copytree(place, staging / ours / str(version), copy_function=os.link)
    name, details = models[-1], beside.manifest.details | {"version": version, "models": models}
    manifest = beside.manifest.model_copy(update={"name": name, "details": details})
    stage_configurations(staging, repository, manifest, kept)
    (staging / name / CONFIGURED).unlink()  # they are the publication's own
    folder = staging / name / str(version)
    (folder / artifacts.MANIFEST).unlink()  # linked: writing it would change the canary's
    details["repository_files"] = staged_files(staging)
    artifacts.seal(folder, manifest)


def _added(repository: Path, name: str) -> list[str]:
    """What a canary added and is still there; what needs others goes first."""
    steps = sorted(path.name for path in repository.glob(f"{name}.canary.*"))
    return [
        model for model in (f"{name}.split", f"{name}.stable", canary_of(name), *steps) if (repository / model).exists()
    ]


def _clear(repository: Path, name: str) -> None:
    """Take away what a canary added."""
    if added := _added(repository, name):
        retire(repository, added)


def _signature(repository: Path, publication: Publication) -> Signature:
    graph = publication.manifest.details["models"][1]
    return config.read_signature(repository / graph / str(publication.version) / "model.onnx")
