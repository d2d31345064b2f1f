"""A canary's life: started beside a live version, given another share, and promoted or dropped.

`start` publishes the canary under a name of its own, checked as any version is; then the live version gets a second
name; then the splitting step takes the first one over. Each is a transaction, and the last is what counts: killed
before it, nothing answers otherwise, and the next start, or a drop, clears away what is there.

`promote` makes a version of the canary's files; `drop` makes the live version's own ensemble answer again. Both then
take away what the canary added.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tldeploy import artifacts
from tldeploy.errors import ArtifactError
from tldeploy.recipe import Deploy
from tldeploy.triton import config
from tldeploy.triton.canary.parts import Canary, running, stage_split, stage_stable
from tldeploy.triton.config import CONFIG_FILE, LABELS_FILE, Signature
from tldeploy.triton.keeping import CONFIGURED, record_configurations, stage_configurations
from tldeploy.triton.repository import (
    Publication,
    kept_versions,
    next_version,
    publish_canary,
    published,
    refuse_beside_a_canary,
    staged_files,
)
from tldeploy.triton.transaction import Check, begin, commit, recover, retire, versions


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
    live, asked = published(repository, name), f"start a canary of {name}"
    refuse_beside_a_canary(repository, name, asked)
    labels = artifacts.load(export, "export").labels
    if labels != live.manifest.labels:
        found = f"it has the labels {', '.join(labels)}, version {live.version} has {', '.join(live.manifest.labels)}"
        raise ArtifactError(asked, found, "their answers cannot be compared: deploy it without --canary")
    _clear(repository, name)
    beside = publish_canary(export, repository, name, settings, lineage, check, tuning)
    canary = Canary(name, live.version, beside.manifest.sha256[:12], share)
    with begin(repository) as staging:
        stage_stable(staging, canary, live.manifest, _signature(repository, live))
        commit(repository, [canary.stable_model], canary.stable, [canary.stable])
    _split(repository, canary, asked)
    return canary, beside


def change_share(repository: Path, name: str, share: float) -> Canary:
    """Give the canary another share (0 .. 1) of the requests; what was counted before stays."""
    repository = repository.resolve()
    before = find(repository, name)
    canary = Canary(name, before.stable, before.tag, share)
    _split(repository, canary, f"change the share of {name}'s canary")
    return canary


def promote(repository: Path, name: str) -> Publication:
    """Make the canary the live version of `name`, with the next number."""
    repository = repository.resolve()
    canary = find(repository, name)
    with begin(repository) as staging:
        beside, live = published(repository, canary.model), published(repository, name)
        models: list[str] = live.manifest.details["models"]
        version = next_version(repository, models)
        kept = kept_versions(repository, name, version, beside.manifest.details["settings"]["keep_versions"])
        _stage_version(staging, repository, beside, models, version, kept)
        commit(repository, models, version, kept)
    _clear(repository, name)
    return published(repository, name)


def drop(repository: Path, name: str) -> Publication:
    """Let the live version of `name` answer everything again, and take the canary away."""
    repository = repository.resolve()
    recover(repository)
    if running(repository, name):
        with begin(repository) as staging:
            live = published(repository, name)
            kept = versions(repository / name)
            stage_configurations(staging, repository, live.manifest, kept)
            commit(repository, live.manifest.details["models"], live.version, kept)
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
        places = [place for place in live.manifest.details["repository_files"] if place.count("/") == 1]
        places += [f"{canary.split}/{place}" for place in (CONFIG_FILE, LABELS_FILE, f"{canary.stable}/model.py")]
        places.append(f"{canary.stable_model}/{CONFIG_FILE}")
        files = {place: staging / place if (staging / place).exists() else repository / place for place in places}
        record_configurations(staging, canary.name, canary.stable, files)
        commit(repository, [canary.split, canary.name], canary.stable, versions(repository / canary.name))


def _stage_version(
    staging: Path, repository: Path, beside: Publication, models: list[str], version: int, kept: list[int]
) -> None:
    """The canary's files as a version of the live one's models, sealed as their deploy artifact."""
    for theirs, ours in zip(beside.manifest.details["models"], models, strict=True):
        folder = staging / ours / str(version)
        shutil.copytree(repository / theirs / str(beside.version), folder, copy_function=os.link)
    (folder / artifacts.MANIFEST).unlink()  # linked: writing it would change the canary's
    name, details = models[-1], beside.manifest.details | {"version": version, "models": models}
    manifest = beside.manifest.model_copy(update={"name": name, "details": details})
    stage_configurations(staging, repository, manifest, kept)
    (staging / name / CONFIGURED).unlink()  # they are the publication's own
    details["repository_files"] = staged_files(staging)
    artifacts.seal(folder, manifest)


def _clear(repository: Path, name: str) -> None:
    """Take away what a canary added. What needs others goes first."""
    added = [f"{name}.{what}" for what in ("split", "stable", "canary")]
    steps = sorted(path.name for path in repository.glob(f"{name}.canary.*"))
    if any((repository / model).exists() for model in (*added, *steps)):
        retire(repository, [*added, *steps])


def _signature(repository: Path, publication: Publication) -> Signature:
    graph = publication.manifest.details["models"][1]
    return config.read_signature(repository / graph / str(publication.version) / "model.onnx")
