"""tldeploy deploy"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.show import force_option, json_option, recipe_argument


@click.command("deploy")
@recipe_argument
@force_option
@json_option
def command(recipe: str, force: bool, as_json: bool) -> None:
    """Publish the chosen variant to the Triton model repository, as a new version.

    The version becomes live by one rename; whatever happens before it leaves the old version as it was.

    \b
    Examples:
      tldeploy deploy models/review-sentiment
      tldeploy deploy models/review-sentiment --force    # a new version of the same graph
    """
    from tldeploy import pipeline

    outcome = pipeline.deploy(recipe, force)
    name, version = outcome.manifest.name, int(outcome.folder.name)
    if as_json:
        show.print_json(show.outcome_json(outcome) | {"name": name, "version": version})
    else:
        print(f"{name}, version {version}, is live in {outcome.folder.parent.parent}")
        print(f"next: tldeploy serve {outcome.folder.parent.parent}")
