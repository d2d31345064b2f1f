"""tldeploy rank"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from tldeploy.cli import show
from tldeploy.cli.show import json_option, recipe_argument


@click.command("rank")
@recipe_argument
@click.argument("backbones", metavar="BACKBONE...", nargs=-1, required=True)
@json_option
def command(recipe: str, backbones: Sequence[str], as_json: bool) -> None:
    """Say which of some pretrained backbones suits the recipe's rows, before any of them is trained.

    BACKBONE is a hub id, a folder with a checkpoint or, for images, a file of weights. Each runs once over the
    training rows. One that cannot be loaded is listed with the reason.

    \b
    Examples:
      tldeploy rank models/review-sentiment ./minilm ./bert-tiny
      tldeploy rank models/review-sentiment bert-base-uncased roberta-base --json
    """
    from tldeploy import pipeline

    candidates = pipeline.rank(recipe, backbones)
    if as_json:
        show.print_json({"backbones": [asdict(candidate) for candidate in candidates]})
    else:
        print(show.candidates(candidates))
