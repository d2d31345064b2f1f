"""Where a served answer comes from: served graph → deploy → export → tune → rows → recipe, each by its hash.

`record` is called when a version is published: it keeps what lies behind the export, so that a trace can be followed
when the folders beside the recipe are gone or have been made again. `trace` follows it, and says of every artifact
whether what is on disk still is what was recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tldeploy import artifacts
from tldeploy.artifacts import MANIFEST, Manifest, file_sha256, fingerprint
from tldeploy.errors import ArtifactError, TldeployError
from tldeploy.recipe import Recipe
from tldeploy.triton.repository import Publication, published
from tldeploy.triton.transaction import versions

# Each stage behind a deploy, the newest first, and its folder beside the recipe.
FOLDERS = {"export": "onnx", "tune": "tuned", "fetch": "data"}
ROWS = ("train.jsonl", "validation.jsonl", "test.jsonl")

State = Literal["intact", "damaged", "replaced", "gone"]


@dataclass(frozen=True)
class Link:
    """One artifact of a trace. sha256: as recorded. state: of what is on disk now; place: where that is, or was.

    found: what is wrong with it, in words. facts: what was recorded of it.
    """

    what: str
    sha256: str
    state: State
    place: str
    found: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Trace:
    """links: from the served graph back to the recipe."""

    name: str
    version: int
    live: bool
    links: tuple[Link, ...]


def record(recipe: Recipe, repository: Path) -> dict[str, Any]:
    """What lies behind the recipe's export artifact, as JSON.

    The recipe's folder is kept relative to the repository, so that both can be moved together.
    """
    stages = list(_behind(recipe, artifacts.read(recipe.path(FOLDERS["export"]), "export")))
    folder = Path(os.path.relpath(recipe.folder.resolve(), repository.resolve())).as_posix()
    return {"recipe": {"folder": folder, "sha256": _recipe_sha256(recipe)}, "stages": stages}


def _behind(recipe: Recipe, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The artifact and its parents; of a parent that is no longer there only the hash is known."""
    yield _facts(manifest)
    for kind, sha256 in manifest.parents.items():
        parent = _read(recipe.path(FOLDERS.get(kind, kind)), kind)
        if parent and parent.sha256 == sha256:
            yield from _behind(recipe, parent)
        else:
            yield {"stage": kind, "sha256": sha256}


def _facts(manifest: Manifest) -> dict[str, Any]:
    facts: dict[str, Any] = {"stage": manifest.kind, "sha256": manifest.sha256, "metrics": manifest.metrics}
    if manifest.kind == "tune":
        kept = str(manifest.details.get("kept"))
        facts["metrics"] = manifest.metrics.get(kept, manifest.metrics)
        facts |= {"method": kept, "backbone": manifest.details.get("backbone"), "rows": _rows(manifest)}
    if manifest.kind == "export":
        facts["variant"] = manifest.details.get("chosen")
    if packages := manifest.environment.get("packages"):
        facts["packages"] = packages
    return facts


def _rows(tuned: Manifest) -> dict[str, str]:
    """sha256 of the rows learnt from, chosen by and held out."""
    return {name: tuned.files[name] for name in ROWS if name in tuned.files}


def _recipe_sha256(recipe: Recipe) -> str:
    """Of its settings: comments and layout do not matter."""
    return fingerprint(recipe.model_dump(mode="json"))


def trace(repository: Path, name: str, version: int | None = None) -> Trace:
    """Follow a kept version of `name`, by default the live one, back to its recipe.

    Raises ArtifactError when it is not published, or its deploy artifact cannot be read.
    """
    repository = repository.resolve()
    live = published(repository, name)
    here = live if version in {None, live.version} else _kept(repository, live, version or 0)
    lineage = here.manifest.details.get("lineage", {})
    recipe: dict[str, str] = lineage.get("recipe", {})
    folder = (repository / recipe["folder"]).resolve() if recipe else None
    stages = list(lineage.get("stages", []))
    if not stages:  # published by hand, or by an older tldeploy
        stages = [{"stage": kind, "sha256": sha256} for kind, sha256 in here.manifest.parents.items()]
    links = [_graph(repository, here), _deploy(repository, here)]
    for stage in stages:
        links.append(_stage(stage, folder))
        links += _row_links(stage, folder)
    if folder:
        links.append(_recipe(recipe["sha256"], folder))
    return Trace(name, here.version, here.version == live.version, tuple(links))


def _kept(repository: Path, live: Publication, version: int) -> Publication:
    kept = versions(repository / live.name)
    if version not in kept:
        found = f"it is not kept (kept: {', '.join(map(str, kept))})"
        raise ArtifactError(f"trace version {version} of {live.name}", found, "name one that is kept")
    path = repository / live.name / str(version)
    return Publication(live.name, version, path, artifacts.read(path, "deploy"))


def _graph(repository: Path, here: Publication) -> Link:
    place = f"{here.manifest.details['models'][1]}/{here.version}/model.onnx"
    recorded = here.manifest.details["repository_files"][place]
    state, found = _file_state(repository / place, recorded)
    return Link("graph", recorded, state, str(repository / place), found, {"variant": here.manifest.details["variant"]})


def _deploy(repository: Path, here: Publication) -> Link:
    files: dict[str, str] = here.manifest.details["repository_files"]
    kept = {place: sha256 for place, sha256 in files.items() if place.count("/") > 1}
    found = [*artifacts.damage(here.path, here.manifest)]
    found += [f"{place} differs" for place, sha in kept.items() if _file_state(repository / place, sha)[0] != "intact"]
    state: State = "damaged" if found else "intact"
    facts = {"settings": here.manifest.details["settings"]}
    return Link("deploy", here.manifest.sha256, state, str(here.path), "; ".join(found), facts)


def _stage(stage: dict[str, Any], folder: Path | None) -> Link:
    kind, sha256 = stage["stage"], stage["sha256"]
    facts = {name: value for name, value in stage.items() if name not in {"stage", "sha256", "rows"}}
    if folder is None:
        return Link(kind, sha256, "gone", "", "the recipe's folder was not recorded", facts)
    place = folder / FOLDERS.get(kind, kind)
    manifest = _read(place, kind)
    if manifest is None:
        return Link(kind, sha256, "gone", str(place), f"there is no {kind} artifact", facts)
    if manifest.sha256 != sha256:
        return Link(kind, sha256, "replaced", str(place), f"another is there now, {manifest.sha256[:12]}…", facts)
    damaged = "; ".join(artifacts.damage(place, manifest))
    return Link(kind, sha256, "damaged" if damaged else "intact", str(place), damaged, facts)


def _row_links(stage: dict[str, Any], folder: Path | None) -> list[Link]:
    links = []
    for name, sha256 in stage.get("rows", {}).items():
        place = folder / FOLDERS["tune"] / name if folder else None
        state, found = _file_state(place, sha256) if place else ("gone", "")
        links.append(Link(f"rows, {Path(name).stem}", sha256, state, str(place or name), found))
    return links


def _recipe(sha256: str, folder: Path) -> Link:
    try:
        now = _recipe_sha256(Recipe.load(folder))
    except TldeployError as error:
        return Link("recipe", sha256, "gone", str(folder), error.found.splitlines()[0])
    found = "" if now == sha256 else f"it has changed since, to {now[:12]}…"
    return Link("recipe", sha256, "replaced" if found else "intact", str(folder), found)


def _file_state(path: Path, sha256: str) -> tuple[State, str]:
    if not path.is_file():
        return "gone", "there is no such file"
    found = file_sha256(path)
    return ("intact", "") if found == sha256 else ("damaged", f"its sha256 is {found[:12]}…")


def _read(folder: Path, kind: str) -> Manifest | None:
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return artifacts.read(folder, kind)
    except ArtifactError:
        return None
