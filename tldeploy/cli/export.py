"""tldeploy export"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.show import device_option, force_option, json_option, recipe_argument

if TYPE_CHECKING:
    from tldeploy.devices import Device

TARGETS = ["cpu", "cuda", "tensorrt", "openvino"]
GOALS = ["latency", "throughput", "size"]
JUDGES = ["estimate", "interval"]


@click.command("export")
@recipe_argument
@click.option("--max-drop", type=click.FloatRange(0, 100), help="Points of the task metric that a variant may lose.")
@click.option("--judge-by", type=click.Choice(JUDGES), help="Hold the drop or its 95 % interval to the budget.")
@click.option("--target", type=click.Choice(TARGETS), help="What will run the graph.")
@device_option("Make the graphs for it as with --target, and measure them on it.")
@click.option("--goal", type=click.Choice(GOALS), help="What a variant must be better than fp32 in.")
@click.option("--keep-all", is_flag=True, default=None, help="Keep the files of variants that were refused too.")
@click.option("--explain", is_flag=True, help="Print where time and error sit, before and after, by groups of layers.")
@force_option
@json_option
def command(
    recipe: str,
    max_drop: float | None,
    judge_by: str | None,
    target: str | None,
    device: Device | None,
    goal: str | None,
    keep_all: bool | None,
    explain: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make the ONNX variants of the tuned network, measure each, and choose one under the accuracy budget.

    --max-drop, --judge-by, --target, --goal and --keep-all stand in for the recipe's `export` settings, for this call.
    With --target alone speed is measured where this machine has it, with --device there or not at all.

    \b
    Examples:
      tldeploy export models/review-sentiment
      tldeploy export models/review-sentiment --max-drop 0.2 --goal throughput
      tldeploy export models/review-sentiment --max-drop 1 --judge-by interval
      tldeploy export models/review-sentiment --keep-all --explain
      tldeploy export models/review-sentiment --device cuda
    """
    from tldeploy import pipeline
    from tldeploy.devices import lacking
    from tldeploy.recipe.serving import ON
    from tldeploy.triton.placement import needs

    given = {"max_drop": max_drop, "judge_by": judge_by, "target": target, "goal": goal, "keep_all": keep_all}
    overrides = {name: value for name, value in given.items() if value is not None}
    outcome = pipeline.export(recipe, force, device=device, **overrides)
    explained = pipeline.explain(recipe) if explain else []
    if as_json:
        details = outcome.manifest.details
        told = {name: details[name] for name in ("chosen", "target", "goal", "variants", "held_out")}
        show.print_json(show.outcome_json(outcome) | told | {"explained": [found.as_json() for found in explained]})
        return
    print(show.scorecard(outcome))
    if explained:
        print(f"\n{show.explanation(explained)}\n")
    elsewhere = lacking(ON[outcome.manifest.details["target"]], needs())
    print(f"next: tldeploy deploy {recipe}{' --no-check' if elsewhere else ''}")
