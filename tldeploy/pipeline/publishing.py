"""The verb that puts a graph into a model repository: deploy, and the search for settings of the server."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tldeploy import artifacts
from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.devices import Device
from tldeploy.errors import ArtifactError
from tldeploy.pipeline.places import refuse_made_for_another, refuse_without_kernels, to_serve
from tldeploy.pipeline.stage import Outcome, RecipeLike, loaded, tell, unless_current
from tldeploy.progress import say
from tldeploy.recipe import Recipe
from tldeploy.recipe.serving import ON, Target
from tldeploy.staleness import here, tell_why

if TYPE_CHECKING:
    from tldeploy.triton.fitting.goals import Goal

SERVING = "serving"  # the folder of settings that were found by measuring


def deploy(
    recipe: RecipeLike,
    force: bool = False,
    *,
    check: bool = True,
    canary: float | None = None,
    goal: Goal | None = None,
    minutes: float = 5.0,
    device: Device | None = None,
) -> Outcome:
    """Publish the chosen variant to the model repository, as a new version.

    check: it has to pass a server of its own first; without, the deploy artifact says so. canary: instead, the share of
    the requests (0 .. 1) that it answers beside the live version.
    goal: what the server is to be good at; without a p99 of its own, the recipe's. Settings for it are found by
    measuring, in about so many minutes, and kept for later calls; the recipe's stand where nothing is better.
    device: what runs the graph, instead of the recipe's `deploy.device`.
    Raises QualityError, and publishes nothing, where the goal's p99 cannot be held; MachineError where the check, or
    the search for settings, needs a GPU that this machine has not; ArtifactError where the graphs are not for what the
    recipe says, and where a canary would be what is live.
    """
    from tldeploy.triton import checking, lineage, repository
    from tldeploy.triton.canary import lifecycle
    from tldeploy.triton.fitting import fit

    as_written = loaded(recipe)
    exported, place = as_written.path("onnx"), as_written.path(as_written.deploy.repository)
    recipe = _placed(as_written, device, exported, here=check or goal is not None)
    say(f"deploy: {recipe.name} to {place}")
    if goal is not None:
        _fit(recipe, goal, minutes, force)
    settings, tuning = fit.kept(recipe.path(SERVING), exported, recipe.deploy)
    passing = checking.check if check else None
    skipped = not force and repository.is_current(exported, place, recipe.name, settings, tuning, checked=check)
    if not skipped and not force:
        live_folder = place / recipe.name / str(repository.live_version(place / recipe.name))
        otherwise = "the recipe's `deploy`, the settings found by measuring, or what was published"
        tell_why("deploy", live_folder, {"export": artifacts.read(exported, "export").sha256}, False, otherwise)
    if skipped:
        live = repository.published(place, recipe.name)
        if canary is not None:
            found = f"nothing differs from version {live.version}, which is live"
            fix = "tune or export it anew, or change the recipe's `deploy`, first"
            raise ArtifactError(f"start a canary of {recipe.name}", found, fix)
    elif canary is not None:
        behind = lineage.record(as_written, place)
        _, live = lifecycle.start(exported, place, recipe.name, settings, canary, behind, passing, tuning)
    else:
        behind = lineage.record(as_written, place)
        live = repository.publish(exported, place, recipe.name, settings, behind, passing, tuning)
    outcome = Outcome("deploy", live.path, skipped, live.manifest)
    tell(outcome)
    return outcome


def _placed(recipe: Recipe, device: Device | None, exported: Path, *, here: bool) -> Recipe:
    """The recipe with the device that was asked for, which this machine has, and the exported graph has kernels for."""
    target: Target = "cpu"
    with suppress(ArtifactError):  # a GPU that is not there is told before an export that is not
        target = artifacts.read(exported, "export").details.get("target", target)
    recipe = to_serve(recipe, device, target, here=here)
    chosen = artifacts.read(exported, "export").details["chosen"]
    refuse_made_for_another(recipe, target)
    refuse_without_kernels(recipe, target, chosen, here=here)
    place = recipe.deploy.device
    if place not in {None, "cpu"} and ON[target] == "cpu" and recipe.export.variants is None:
        again = f"`tldeploy export {recipe.folder} --target {place}` considers fp16 too"
        say(f"deploy: {chosen} was chosen for {target}; {again}")
    return recipe


def _fit(recipe: Recipe, goal: Goal, minutes: float, force: bool) -> None:
    """Find settings for the server by the validation rows: the held-out ones are for the report."""
    from tldeploy.data.rows import Rows
    from tldeploy.triton.fitting.fit import KIND, fit

    tuned, exported, folder = recipe.path("tuned"), recipe.path("onnx"), recipe.path(SERVING)
    parents = {"tune": artifacts.load(tuned, "tune").sha256, "export": artifacts.load(exported, "export").sha256}
    if goal.aim == "throughput" and goal.p99_ms is None:
        goal = replace(goal, p99_ms=recipe.deploy.p99_ms)
    clients = max(recipe.bench.concurrency)
    inputs = fingerprint([*parents.values(), recipe.section("deploy"), goal.as_json(), minutes, clients, *here()])

    def run_stage() -> Manifest:
        rows = Rows.load(tuned / "validation.jsonl").inputs
        return fit(
            exported,
            rows,
            recipe.deploy,
            goal,
            about_rows=f"the {len(rows)} validation rows",
            most_clients=clients,
            seconds=60 * minutes,
            out=folder,
            name=recipe.name,
            inputs=inputs,
        )

    otherwise = "the goal, the recipe's `deploy`, or tldeploy"
    unless_current(KIND, folder, inputs, force, run_stage, parents, measures=True, otherwise=otherwise)
