"""The files of an image, a chart or a service into a folder. What differs there is not overwritten unless told."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tldeploy.artifacts import write_file
from tldeploy.errors import UsageError, storage_errors
from tldeploy.triton.manifests.docker import dockerfile, dockerignore
from tldeploy.triton.manifests.helm import chart
from tldeploy.triton.manifests.kserve import inference_service
from tldeploy.triton.manifests.needs import Needs, read_needs

Kind = Literal["docker", "helm", "kserve"]
DOCKERFILE, SERVICE = "Dockerfile", "inference-service.yaml"


@dataclass(frozen=True)
class Manifests:
    """What was written below `folder`, and what was there already, the same; the command to go on with."""

    kind: Kind
    needs: Needs
    folder: Path
    written: tuple[str, ...]
    unchanged: tuple[str, ...]
    next: str


def write_manifests(
    repository: Path, kind: Kind, out: Path, image: str = "", storage_uri: str = "", force: bool = False
) -> Manifests:
    """Write what runs the repository by `kind` into the folder `out`; a chart goes into a folder of its name there.

    Each file is written whole or not at all. Raises what `read_needs` and `inference_service` raise, UsageError
    when `out` is no folder or lies in the repository, or when a file is there that differs and `force` is not given,
    all before anything is written, and StorageError.
    """
    needs = read_needs(repository)
    _check_place(out, needs)
    files = _files(needs, kind, image, storage_uri)
    same = tuple(name for name, text in files.items() if _is_there(out / name, text))
    changed = [name for name in files if name not in same]
    if not force:
        _refuse_to_overwrite(out, changed)
    with storage_errors(out):
        for name in changed:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(out / name, files[name])
    return Manifests(kind, needs, out, tuple(changed), same, _next(needs, kind, out, image))


def _files(needs: Needs, kind: Kind, image: str, storage_uri: str) -> dict[str, str]:
    if kind == "docker":
        return {DOCKERFILE: dockerfile(needs), f"{DOCKERFILE}.dockerignore": dockerignore(needs)}
    if kind == "helm":
        return {f"{needs.name}/{name}": text for name, text in chart(needs, image).items()}
    if kind == "kserve":
        return {SERVICE: inference_service(needs, image, storage_uri)}
    raise UsageError(f"write manifests for {kind}", "it is not known", "docker, helm or kserve")


def _check_place(out: Path, needs: Needs) -> None:
    asked, fix = f"write below {out}", "give another --out"
    if file := next((place for place in (out, *out.parents) if place.exists() and not place.is_dir()), None):
        raise UsageError(asked, f"{file} is a file", fix)
    if out.resolve().is_relative_to(needs.repository):
        raise UsageError(asked, "it lies in the model repository, where a server would take it for a model", fix)


def _is_there(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _refuse_to_overwrite(out: Path, changed: list[str]) -> None:
    differing = [name for name in changed if (out / name).exists()]
    if differing:
        found = f"there are other files already: {', '.join(differing)}"
        raise UsageError(f"write below {out}", found, "give another --out, or overwrite them with --force")


def _next(needs: Needs, kind: Kind, out: Path, image: str) -> str:
    if kind == "docker":
        build = ["docker", "build", "-t", image or needs.name, "-f", str(out / DOCKERFILE), str(needs.repository)]
        return shlex.join(build)
    if kind == "helm":
        unnamed = [] if image else ["--set", "image=REGISTRY/NAME:TAG"]
        return shlex.join(["helm", "upgrade", "--install", needs.name, str(out / needs.name), *unnamed])
    return shlex.join(["kubectl", "apply", "-f", str(out / SERVICE)])
