"""tldeploy export"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.show import force_option, json_option, recipe_argument


@click.command("export")
@recipe_argument
@force_option
@json_option
def command(recipe: str, force: bool, as_json: bool) -> None:
    """Make the ONNX variants of the tuned network, measure each, and choose one under the accuracy budget.

    \b
    Examples:
      tldeploy export models/review-sentiment
      tldeploy export models/review-sentiment --force --json
    """
    from tldeploy import pipeline

    outcome = pipeline.export(recipe, force)
    if as_json:
        details = outcome.manifest.details
        show.print_json(
            show.outcome_json(outcome) | {"chosen": details["chosen"], "variants": details["variants"]},
        )
    else:
        print(show.scorecard(outcome))
        print(f"next: tldeploy deploy {recipe}")
