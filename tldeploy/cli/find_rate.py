"""tldeploy find-rate"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.show import json_option, recipe_argument


@click.command("find-rate")
@recipe_argument
@json_option
def command(recipe: str, as_json: bool) -> None:
    """Suggest a learning rate for fine-tuning, by a range test on the training rows.

    The rate rises step by step until the loss breaks; find-rate.html shows the curve. The recipe is left as it is.

    \b
    Examples:
      tldeploy find-rate models/review-sentiment
    """
    from tldeploy import pipeline

    suggestion, page = pipeline.find_rate(recipe)
    if as_json:
        show.print_json({"learning_rate": suggestion.rate, "reason": suggestion.reason, "page": str(page)})
        return
    print(f"learning rate: {suggestion.rate:.1e}\n{suggestion.reason}\nplot: {page}")
    print(f"next: set tune.learning_rate to {suggestion.rate:.1e}")
