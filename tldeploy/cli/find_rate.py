"""tldeploy find-rate"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.show import TRAINERS, device_option, json_option, recipe_argument

if TYPE_CHECKING:
    from tldeploy.devices import Device


@click.command("find-rate")
@recipe_argument
@device_option("Train on it, whatever the recipe's tune.device says.", TRAINERS)
@json_option
def command(recipe: str, device: Device | None, as_json: bool) -> None:
    """Suggest a learning rate for fine-tuning, by a range test on the training rows.

    The rate rises step by step until the loss breaks; find-rate.html shows the curve. The recipe is left as it is.

    \b
    Examples:
      tldeploy find-rate models/review-sentiment
      tldeploy find-rate models/review-sentiment --device cuda
    """
    from tldeploy import pipeline

    suggestion, page = pipeline.find_rate(recipe, device=device)
    if as_json:
        show.print_json({"learning_rate": suggestion.rate, "reason": suggestion.reason, "page": str(page)})
        return
    print(f"learning rate: {suggestion.rate:.1e}\n{suggestion.reason}\nplot: {page}")
    print(f"next: set tune.learning_rate to {suggestion.rate:.1e}")
