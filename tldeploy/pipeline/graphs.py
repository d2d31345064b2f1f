"""The verbs that make a tuned network a graph: export, and what explains its variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tldeploy import artifacts
from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.errors import UsageError
from tldeploy.pipeline.stage import Outcome, RecipeLike, check_lineage, loaded, unless_current
from tldeploy.recipe import Export
from tldeploy.staleness import here

if TYPE_CHECKING:
    from tldeploy.exporting.explain import Explained


def export(recipe: RecipeLike, force: bool = False, **overrides: Any) -> Outcome:
    """Make the ONNX variants of the tuned network, measure them, and choose one.

    overrides: settings of the recipe's export section, for this call only, such as `max_drop=1.0, goal="size"`.
    Raises UsageError for values that a recipe could not have.
    """
    recipe = loaded(recipe)
    settings = _overridden(recipe.export, overrides)
    tuned, folder = recipe.path("tuned"), recipe.path("onnx")
    section = {"export": settings.model_dump(mode="json")}
    parents = {"tune": artifacts.load(tuned, "tune").sha256}
    inputs = fingerprint([section, parents["tune"], *here()])

    def run_stage() -> Manifest:
        from tldeploy.exporting.export import export as run_export

        return run_export(settings, tuned, folder, inputs)

    return unless_current("export", folder, inputs, force, run_stage, parents, measures=True)


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
