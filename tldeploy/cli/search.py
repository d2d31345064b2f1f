"""tldeploy search"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.show import TRAINERS, device_option, json_option, recipe_argument

if TYPE_CHECKING:
    from tldeploy.devices import Device


@click.command("search")
@recipe_argument
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all, those done before included.")
@device_option("Train on it, whatever the recipe's tune.device says.", TRAINERS)
@json_option
def command(recipe: str, trials: int | None, device: Device | None, as_json: bool) -> None:
    """Search for better settings of `tune`, as the recipe's `tune.search` says; the best become a recipe.

    Trials are compared on validation rows. What was done before counts: run it again to go on after an interruption,
    or with more trials. Start it twice, here or on another machine that sees the folder, to share the work.

    \b
    Examples:
      tldeploy search models/review-sentiment
      tldeploy search models/review-sentiment --trials 50 --json
      tldeploy search models/review-sentiment --device cuda
    """
    from tldeploy import pipeline

    searched = pipeline.search(recipe, trials, device=device)
    if as_json:
        show.print_json(
            {
                "metric": searched.metric,
                "validation_rows": searched.rows,
                "total": searched.total,
                "trials": [asdict(trial) for trial in searched.trials],
                "best": str(searched.best),
                "report": str(searched.page),
            }
        )
    else:
        print(show.trials(searched))
        print(f"report: {searched.page}")
        print(f"next: tldeploy run {searched.best.parent}")
