"""Where each verb computes: by `--device`, or else by the recipe. Asked before anything is skipped, fetched or written.

Each function raises MachineError where this machine cannot compute there.
"""

from __future__ import annotations

from typing import Any

from tldeploy.devices import OTHERWISE, Device, Need, require
from tldeploy.errors import ArtifactError, UsageError
from tldeploy.recipe import Recipe
from tldeploy.recipe.serving import ON, SECTIONS, Target
from tldeploy.recipe.tuning import TrainedOn

# Variants with operators that a device has no kernels for.
WITHOUT_KERNELS: dict[Device, set[str]] = {
    "cpu": {"bf16"},
    "cuda": {"int8-dynamic", "int8-static"},
    "tensorrt": {"int8-dynamic", "int8-weights", "int4-weights"},
}
ELSEWHERE = "`--no-check` publishes it for another machine"


def to_train(recipe: Recipe, device: Device | None, verb: str = "tune") -> TrainedOn:
    """What networks are trained and run on while tuning; what TensorRT will run is trained on CUDA."""
    place = recipe.tune.device if device is None else "cpu" if device == "cpu" else "cuda"
    if place == "cuda":
        require("cuda", f"{verb} {recipe.name}", ["torch"])
    return place


def to_measure(recipe: Recipe, device: Device | None, target: Target | None) -> Target:
    """What the graphs are made for: target, if it is given, or else the device, which must be the target's."""
    if device is None:
        return target or recipe.export.target
    if target is not None and ON[target] != device:
        found = f"both --device {device} and --target {target}: the graphs are measured on what they are made for"
        raise UsageError(f"export {recipe.name}", found, "give one of them")
    require(device, f"export {recipe.name}", ["onnxruntime"])
    return next((one for one in (target, recipe.export.target) if one and ON[one] == device), device)


def to_serve(recipe: Recipe, device: Device | None, target: Target, *, here: bool) -> Recipe:
    """The recipe with `deploy.device` as asked, or else by the target. here: a server of this machine runs it."""
    place = device or recipe.deploy.device or ON[target]
    if here:
        from tldeploy.triton.placement import needs

        require(place, f"deploy {recipe.name}", needs(), otherwise=f"{OTHERWISE}, and {ELSEWHERE}")
    if device is None:
        return recipe
    fitting = {name: getattr(recipe.deploy, name) if device in devices else None for name, devices in SECTIONS.items()}
    return _with(recipe, "deploy", device=device, **fitting)


def refuse_without_kernels(recipe: Recipe, target: Target, variant: str) -> None:
    """Raise ArtifactError for a graph that was chosen for a target and that `deploy.device` cannot run."""
    device = recipe.deploy.device or ON[target]
    if variant in WITHOUT_KERNELS[device] and ON[target] != device:
        found = f"{variant}, which was chosen for {target}, has operators that {device} has no kernels for"
        fix = f"run `tldeploy export {recipe.folder} --device {device}` first"
        raise ArtifactError(f"deploy {recipe.name} on {device}", found, fix)


def to_bench(recipe: Recipe, device: Device | None) -> Recipe:
    """The recipe with `bench.device` as asked."""
    if device is not None:
        recipe = _with(recipe, "bench", device=device)
    engines = recipe.bench.engines
    needs: list[Need] = [need for need in ("torch", "onnxruntime") if any(name.startswith(need) for name in engines)]
    require(recipe.bench_device(), f"bench {recipe.name}", needs)
    return recipe


def _with(recipe: Recipe, section: str, **settings: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=settings)})
