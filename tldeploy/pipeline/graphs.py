"""The verbs that make a tuned network a graph: export, and what explains its variants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tldeploy import artifacts
from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.devices import Device
from tldeploy.errors import UsageError
from tldeploy.pipeline.places import to_measure
from tldeploy.pipeline.stage import Outcome, RecipeLike, check_lineage, loaded, unless_current
from tldeploy.recipe import Export
from tldeploy.staleness import here

if TYPE_CHECKING:
    from tldeploy.exporting.explain import Explained


def export(recipe: RecipeLike, force: bool = False, *, device: Device | None = None, **overrides: Any) -> Outcome:
    """Make the ONNX variants of the tuned network, measure them, and choose one.

    device: the graphs are made for it and measured on it. A target alone is made for, and measured on where this
    machine has it. overrides: settings of the recipe's export section, for this call only, such as `max_drop=1.0,
    goal="size"`.
    Raises UsageError for values that a recipe could not have, MachineError for a device that this machine has not.
    """
    recipe = loaded(recipe)
    settings = _overridden(recipe.export, overrides)
    if device is not None:
        target = to_measure(recipe, device, settings.target if "target" in overrides else None)
        settings = settings.model_copy(update={"target": target})
    tuned, folder = recipe.path("tuned"), recipe.path("onnx")
    section = {"export": settings.model_dump(mode="json")}
    parents = {"tune": artifacts.load(tuned, "tune").sha256}
    inputs = fingerprint([section, parents["tune"], *here()])
    there = device not in {None, "cpu"}
    force = force or (there and artifacts.is_current(folder, "export", inputs) and _not_measured(folder))

    def run_stage() -> Manifest:
        from tldeploy.exporting.export import export as run_export

        return run_export(settings, tuned, folder, inputs, there=there)

    return unless_current("export", folder, inputs, force, run_stage, parents, measures=True)


def _not_measured(folder: Path) -> bool:
    """Whether the scorecard of an export has no speeds, because its target was not to be had."""
    reference, *_ = artifacts.load(folder, "export").details["variants"]
    return reference["p50_ms"] is None


def explain(recipe: RecipeLike) -> list[Explained]:
    """Where time and error sit in fp32 and in each variant whose file is kept, group by group of the network."""
    from tldeploy.exporting.explain import explain as run_explain

    recipe = loaded(recipe)
    tuned, exported = recipe.path("tuned"), recipe.path("onnx")
    behind = {"tune": artifacts.load(tuned, "tune"), "export": artifacts.load(exported, "export")}
    check_lineage(recipe, behind, "explain")
    return run_explain(behind["export"], exported, tuned)


def _overridden(section: Export, overrides: dict[str, Any]) -> Export:
    try:
        return Export.model_validate(section.model_dump() | overrides)
    except ValidationError as error:
        wrong = error.errors()[0]
        found = f"{'.'.join(map(str, wrong['loc']))} is {wrong['input']!r}: {wrong['msg']}"
        raise UsageError("export with these settings", found, "give what `export` may have in a recipe") from None
