"""Where each verb computes: by `--device`, or else by the recipe. Asked before anything is skipped, fetched or written.

Each function raises MachineError where this machine cannot compute there, and UsageError for what is no device.
"""

from __future__ import annotations

from typing import Any

from tldeploy import engines
from tldeploy.devices import OTHERWISE, Device, Need, check_name, require
from tldeploy.errors import ArtifactError, RecipeError, UsageError
from tldeploy.recipe import Recipe
from tldeploy.recipe.serving import ON, SECTIONS, Target
from tldeploy.recipe.tuning import TrainedOn


def to_train(recipe: Recipe, device: Device | None, verb: str = "tune") -> TrainedOn:
    """What networks are trained and run on while tuning; what TensorRT will run is trained on CUDA."""
    check_name(device)
    place = recipe.tune.device if device is None else "cpu" if device == "cpu" else "cuda"
    if place == "cuda":
        otherwise = f"what tensorrt will run is trained on cuda; {OTHERWISE}" if device == "tensorrt" else OTHERWISE
        require("cuda", f"{verb} {recipe.name}", ["torch"], otherwise=otherwise)
    return place


def to_measure(recipe: Recipe, device: Device | None, target: Target | None) -> Target:
    """What the graphs are made for: target, if it is given, or else the device, which must be the target's."""
    check_name(device)
    if device is None:
        return target or recipe.export.target
    if target is not None and ON[target] != device:
        found = f"both --device {device} and --target {target}: the graphs are measured on what they are made for"
        raise UsageError(f"export {recipe.name}", found, "give one of them")
    made_for = next((one for one in (target, recipe.export.target) if one and ON[one] == device), device)
    otherwise = f"{OTHERWISE}, and `tldeploy export {recipe.folder} --target {made_for}` makes the graphs without a GPU"
    require(device, f"export {recipe.name}", ["onnxruntime"], otherwise=otherwise)
    return made_for


def to_serve(recipe: Recipe, device: Device | None, target: Target, *, here: bool) -> Recipe:
    """The recipe with `deploy.device` as asked; the target, which the graphs are made for, says it where nothing does.

    here: a server of this machine runs it.
    """
    check_name(device)
    place = device or recipe.deploy.device or ON[target]
    if here:
        from tldeploy.triton.placement import needs

        first = f"tldeploy export {recipe.folder} --target {place} && " if ON[target] != place else ""
        elsewhere = f"tldeploy deploy {recipe.folder}{f' --device {device}' if device else ''} --no-check"
        otherwise = f"{OTHERWISE}, and `{first}{elsewhere}` publishes it for another machine"
        require(place, f"deploy {recipe.name}", needs(), otherwise=otherwise)
    if device is None:
        return recipe
    fitting = {name: getattr(recipe.deploy, name) if device in devices else None for name, devices in SECTIONS.items()}
    return _with(recipe, "deploy", device=device, **fitting)


def refuse_made_for_another(recipe: Recipe, target: Target) -> None:
    """Raise ArtifactError where the recipe wants graphs for a GPU and these, which say where they run, are for another.

    What `deploy.device` says is meant so.
    """
    wanted = recipe.export.target
    if recipe.deploy.device is None and ON[wanted] not in {"cpu", ON[target]}:
        found = f"it was exported for {target}, the recipe's export.target is {wanted}"
        as_it_is = f"as it is, `tldeploy deploy {recipe.folder} --device {ON[target]}` publishes it"
        fix = f"run `tldeploy export {recipe.folder} --target {wanted}` first; {as_it_is}"
        raise ArtifactError(f"deploy {recipe.name}", found, fix)


def refuse_without_kernels(recipe: Recipe, target: Target, variant: str, *, here: bool) -> None:
    """Raise ArtifactError for a graph that was chosen for a target and that `deploy.device` cannot run."""
    device = recipe.deploy.device or ON[target]
    if variant in engines.WITHOUT_KERNELS[device] and ON[target] != device:
        found = f"{variant}, which was chosen for {target}, has operators that {device} has no kernels for"
        fix = f"run `tldeploy export {recipe.folder} --{'device' if here else 'target'} {device}` first"
        raise ArtifactError(f"deploy {recipe.name} on {device}", found, fix)


def to_bench(recipe: Recipe, device: Device | None) -> Recipe:
    """The recipe with `bench.device` as asked. Raises RecipeError for engines that do not compute there."""
    check_name(device)
    if device is not None:
        recipe = _with(recipe, "bench", device=device)
    wanted = recipe.bench.engines
    engines.check(wanted, recipe.bench_device())
    needs: list[Need] = [need for need in ("torch", "onnxruntime") if any(name.startswith(need) for name in wanted)]
    require(recipe.bench_device(), f"bench {recipe.name}", needs)
    return recipe


def refuse_served_elsewhere(recipe: Recipe, on: Device | None) -> None:
    """Raise RecipeError where served engines, whose graph runs `on` the CPU, are to be benched beside a GPU's."""
    device, served = recipe.bench_device(), [name for name in recipe.bench.engines if name in engines.SERVED]
    if served and device != "cpu" and on == "cpu":
        names = ", ".join(served)
        fix = f"`tldeploy run {recipe.folder} --device {device}` deploys it there; or leave them out of bench.engines"
        raise RecipeError(f"bench {names} on {device}", "the graph that is served is configured for the CPU", fix)


def _with(recipe: Recipe, section: str, **settings: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=settings)})
