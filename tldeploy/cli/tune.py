"""tldeploy tune"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.show import force_option, json_option, recipe_argument


@click.command("tune")
@recipe_argument
@force_option
@json_option
def command(recipe: str, force: bool, as_json: bool) -> None:
    """Adapt the backbone to the labelled rows, by every method of the recipe, and keep one.

    \b
    Examples:
      tldeploy tune models/review-sentiment
      tldeploy tune models/review-sentiment --json | tail -n 1
    """
    from tldeploy import pipeline

    outcome = pipeline.tune(recipe, force)
    if as_json:
        show.print_json(show.outcome_json(outcome))
    else:
        print(show.methods(outcome))
        print(f"next: tldeploy export {recipe}")
