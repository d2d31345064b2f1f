"""tldeploy deploy"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.canary import SHARE
from tldeploy.cli.show import force_option, json_option, no_check_option, recipe_argument


@click.command("deploy")
@recipe_argument
@force_option
@no_check_option
@click.option(
    "--canary", type=SHARE, help="Let it answer a share of the requests, such as 10%, beside the live version."
)
@json_option
def command(recipe: str, force: bool, no_check: bool, canary: float | None, as_json: bool) -> None:
    """Publish the chosen variant to the Triton model repository, as a new version.

    It is checked first: lint, and every golden row through a server of its own. Then it is live by one rename, and
    every `tldeploy serve` that runs on the repository takes it without losing a request. Whatever fails leaves the
    old version as it was.

    \b
    Examples:
      tldeploy deploy models/review-sentiment
      tldeploy deploy models/review-sentiment --force    # a new version of the same graph
      tldeploy deploy models/review-sentiment --no-check # on a build machine without a server
      tldeploy deploy models/review-sentiment --canary 10%
    """
    from tldeploy import pipeline

    outcome = pipeline.deploy(recipe, force, check=not no_check, canary=canary)
    name, version = outcome.manifest.name, int(outcome.folder.name)
    if as_json:
        show.print_json(show.outcome_json(outcome) | {"name": name, "version": version})
    else:
        print(f"{name}, version {version}, is live in {outcome.folder.parent.parent}")
        print(f"next: tldeploy serve {outcome.folder.parent.parent}")
