"""tldeploy rollback"""

from __future__ import annotations

import click

from tldeploy.cli.show import json_option, no_check_option, print_json


@click.command("rollback")
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--repository", default="triton_repo", show_default=True, help="The model repository.")
@no_check_option
@json_option
def command(name: str, version: int | None, repository: str, no_check: bool, as_json: bool) -> None:
    """Make an older version that is kept live again; by default the newest before the live one.

    It is checked and made live as `tldeploy deploy` does, in every `tldeploy serve` that runs on the repository too;
    the version that was live stays on disk. How many are kept is `deploy.keep_versions` of the recipe.

    \b
    Examples:
      tldeploy rollback review-sentiment
      tldeploy rollback review-sentiment 3 --repository /models
    """
    from tldeploy import serving

    live = serving.rollback(name, version, repository, check=not no_check)
    if as_json:
        print_json({"name": live.name, "version": live.version, "folder": str(live.path)})
    else:
        print(f"{live.name}, version {live.version}, is live in {live.path.parent.parent}")
