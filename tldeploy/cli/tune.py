"""tldeploy tune"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.show import TRAINERS, device_option, force_option, json_option, recipe_argument

if TYPE_CHECKING:
    from tldeploy.devices import Device


@click.command("tune")
@recipe_argument
@device_option("Train on it, whatever the recipe's tune.device says.", TRAINERS)
@force_option
@json_option
def command(recipe: str, device: Device | None, force: bool, as_json: bool) -> None:
    """Adapt the backbone to the labelled rows, by every method of the recipe, and keep one.

    \b
    Examples:
      tldeploy tune models/review-sentiment
      tldeploy tune models/review-sentiment --device cuda    # on a GPU, or not at all
      tldeploy tune models/review-sentiment --json | tail -n 1
    """
    from tldeploy import pipeline

    outcome = pipeline.tune(recipe, force, device=device)
    if as_json:
        show.print_json(show.outcome_json(outcome))
    else:
        print(show.methods(outcome))
        print(f"next: tldeploy export {recipe}")
