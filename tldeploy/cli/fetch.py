"""tldeploy fetch"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.show import force_option, json_option, recipe_argument


@click.command("fetch")
@recipe_argument
@force_option
@json_option
def command(recipe: str, force: bool, as_json: bool) -> None:
    """Get the files that a recipe's `fetch` section declares, and verify them by hash.

    \b
    Example:
      tldeploy fetch models/review-sentiment
    """
    from tldeploy import pipeline

    outcome = pipeline.fetch(recipe, force)
    if as_json:
        show.print_json(show.outcome_json(outcome) if outcome else {"stage": "fetch", "skipped": True})
    elif outcome is None:
        print("the recipe fetches nothing")
    else:
        print("\n".join(str(outcome.folder / name) for name in outcome.manifest.files))
