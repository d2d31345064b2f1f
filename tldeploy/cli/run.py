"""tldeploy run"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.show import device_option, force_option, json_option, recipe_argument

if TYPE_CHECKING:
    from tldeploy.devices import Device


@click.command("run")
@recipe_argument
@device_option("Of all stages, whatever the recipe says; for tensorrt the network is trained on cuda.")
@force_option
@json_option
def command(recipe: str, device: Device | None, force: bool, as_json: bool) -> None:
    """Do the whole job: fetch, tune, export, deploy, bench.

    Stages whose inputs have not changed are skipped. After an interruption, run it again: finished stages are kept.

    \b
    Examples:
      tldeploy run models/review-sentiment
      tldeploy run models/review-sentiment --force
      tldeploy run models/review-sentiment --device cuda    # on a GPU from tune to bench, or not at all
    """
    from tldeploy import pipeline
    from tldeploy.benchmarking.report import HOW_TO_READ, headline, render_table, weakest_class

    outcomes = {outcome.stage: outcome for outcome in pipeline.run(recipe, force, device=device)}
    bench = outcomes["bench"]
    report = pipeline.report(bench)
    page = bench.folder.parent / "report.html"
    if as_json:
        stages = [show.outcome_json(outcome) for outcome in outcomes.values()]
        show.print_json({"stages": stages, "chosen": report["chosen"], "report": str(page)})
        return
    print(f"\n{show.methods(outcomes['tune'])}\n\n{show.scorecard(outcomes['export'])}\n\n{render_table(report)}")
    print(f"{HOW_TO_READ}\n\n{headline(report)}\n{weakest_class(report)}")
    print(f"report: {page}")
    show.print_next(outcomes["deploy"].manifest.name, outcomes["deploy"].folder.parent.parent)
