"""Why a stage is done again although its artifact is there: which of the things that it records are others now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tldeploy import __version__, artifacts, environment
from tldeploy.errors import TldeployError
from tldeploy.progress import say

MACHINE = ("cpu", "cores", "gpus", "packages")


def here() -> list[Any]:
    """What measured figures depend on besides their artifacts: this tldeploy, this machine, these packages."""
    facts = environment.describe()
    return [__version__, {name: facts[name] for name in MACHINE}]


def tell_why(stage: str, folder: Path, parents: Mapping[str, str], measures: bool, otherwise: str) -> None:
    """Say in a line what `why_again` finds."""
    if why := why_again(folder, stage, parents, measures, otherwise):
        say(f"{stage}: again, for {why}")


def why_again(folder: Path, kind: str, parents: Mapping[str, str], measures: bool, otherwise: str) -> str:
    """What changed since the artifact in `folder` was made, in words; empty where there is none.

    parents: kind to the sha256 that each has now. measures: whether its figures are of a machine. otherwise: what the
    artifact depends on and does not record.
    """
    if not (folder / artifacts.MANIFEST).is_file():
        return ""
    try:
        manifest = artifacts.load(folder, kind)
    except TldeployError as error:
        return error.found
    changed = [f"the {name} artifact is another one" for name in parents if manifest.parents.get(name) != parents[name]]
    if measures and manifest.environment:
        then, now = _facts(manifest.environment), _facts(environment.describe())
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        changed += [f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}" for name in names]
    return "; ".join(changed) or f"{otherwise} changed"


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    gpus = ", ".join(gpu["name"] for gpu in found.get("gpus", [])) or "none"
    facts = {"cpu": found.get("cpu", "unknown"), "cores": found.get("cores", "unknown"), "gpus": gpus}
    return {name: str(value) for name, value in (facts | found.get("packages", {})).items()}
