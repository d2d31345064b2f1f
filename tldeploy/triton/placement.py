"""Where the graphs of a repository run, and in how many instances, as their configurations say; looked at before a
server is started on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tldeploy.devices import Device, Need, lacking
from tldeploy.errors import ArtifactError, MachineError, ServerError
from tldeploy.triton.config import for_tensorrt
from tldeploy.triton.lint.models import Model
from tldeploy.triton.repository import Publication, all_published
from tldeploy.triton.transaction import CONFIG_FILE

KINDS: dict[Device, str] = {"cpu": "KIND_CPU", "cuda": "KIND_GPU", "tensorrt": "KIND_GPU, and the accelerator tensorrt"}


def check_servable(repository: Path, published: Sequence[Publication]) -> None:
    """Raise ServerError where there is no model, and MachineError where one is for a GPU that this machine has not."""
    asked = f"serve {repository}"
    if not any(repository.glob(f"*/{CONFIG_FILE}")):
        raise ServerError(asked, "no model is in it", "publish one with `tldeploy deploy`")
    placed = [(model, device_of(model)) for model in _models(repository)]
    for device in ("cuda", "tensorrt"):  # what TensorRT leaves is CUDA's
        there = [model for model, place in placed if place in {device, "tensorrt"}]
        graphs = [model for model in there if model.backend == "onnxruntime"]
        for models, wanted in ((there, []), (graphs, needs())):  # other backends bring their own libraries
            names = [model.name for model in models]
            if names and (lack := lacking(device, wanted)):
                found = f"{_are(names)} configured for a GPU ({KINDS[device]}): {lack.found}"
                again = _again(repository, published, names, "cpu")
                raise MachineError(asked, found, f"{lack.fix}; for the CPU: {again}")


def demand(repository: Path, device: Device) -> None:
    """Raise ArtifactError unless every graph is configured for that device."""
    repository = repository.resolve()
    published = all_published(repository)
    graphs = [model for model in _models(repository) if not model.is_ensemble and model.backend != "python"]
    others = {model.name: device_of(model) for model in graphs if device_of(model) != device}
    if others:
        found = "; ".join(f"{name} is configured for {place or 'any device'}" for name, place in others.items())
        raise ArtifactError(
            f"serve {repository} on {device}", found, _again(repository, published, list(others), device)
        )


def of(repository: Path, publication: Publication) -> Device | None:
    """Where the graph of what was published runs; None where its configuration leaves it to the server."""
    models = [Model(repository / name) for name in publication.manifest.details["models"]]
    return next((device_of(model) for model in models if model.backend == "onnxruntime"), None)


def needs() -> list[Need]:
    """What a server here runs graphs by, of what tldeploy itself has: one that is on the PATH brings its own."""
    return [] if shutil.which("tritonserver") else ["onnxruntime"]


def device_of(model: Model) -> Device | None:
    """None where the configuration leaves it to the server."""
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    kinds = {group.kind for group in model.known.instance_group}
    if ModelInstanceGroup.KIND_GPU not in kinds:
        return "cpu" if ModelInstanceGroup.KIND_CPU in kinds else None
    return "tensorrt" if for_tensorrt(model.known) else "cuda"


def builds_engines(repository: Path) -> bool:
    """Whether a graph there is for TensorRT: its engines are built before the server is ready."""
    return any(device_of(model) == "tensorrt" for model in _models(repository))


def instances(groups: Sequence[Mapping[str, Any]], gpus: int = 0) -> int:
    """How many instances of a model a server with so many GPUs has.

    groups: its `instance_group`, as in JSON; none is one of KIND_AUTO. `count` is for each GPU of a group: those that
    it names, else all. In the configurations that a server gives all that is settled (NormalizeInstanceGroup in
    triton-inference-server/core).
    """
    return sum(max(1, group.get("count", 1)) * _places(group, gpus) for group in groups or [{}])


def _places(group: Mapping[str, Any], gpus: int) -> int:
    kind, named = group.get("kind", "KIND_AUTO"), group.get("gpus") or range(gpus)
    on_gpus = kind == "KIND_GPU" or (kind == "KIND_AUTO" and all(gpu < gpus for gpu in named))
    return max(1, len(named)) if on_gpus else 1


def _models(repository: Path) -> Iterator[Model]:
    """Those whose configuration can be read; the server says what is wrong with the others."""
    for file in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        if (model := Model(file.parent)).config is not None:
            yield model


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _again(repository: Path, published: Sequence[Publication], models: Iterable[str], device: Device) -> str:
    """What configures these models for another device: commands, or what to write."""
    return "; ".join(dict.fromkeys(_steps(repository, published, models, device)))


def _steps(repository: Path, published: Sequence[Publication], models: Iterable[str], device: Device) -> Iterator[str]:
    for model in models:
        by_us = next((each for each in published if model in each.manifest.details["models"]), None)
        folder = by_us and by_us.manifest.details.get("lineage", {}).get("recipe", {}).get("folder")
        if by_us is None:
            yield f"write {KINDS[device]} in {model}/{CONFIG_FILE}"
        else:
            recipe = os.path.relpath((repository / folder).resolve()) if folder else "its recipe's folder"
            yield f"`tldeploy export {recipe} --device {device} && tldeploy deploy {recipe} --device {device}`"
