"""tldeploy rank"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.show import TRAINERS, device_option, json_option, recipe_argument

if TYPE_CHECKING:
    from tldeploy.devices import Device


@click.command("rank")
@recipe_argument
@click.argument("backbones", metavar="BACKBONE...", nargs=-1, required=True)
@device_option("Run them on it, whatever the recipe's tune.device says.", TRAINERS)
@json_option
def command(recipe: str, backbones: Sequence[str], device: Device | None, as_json: bool) -> None:
    """Say which of some pretrained backbones suits the recipe's rows, before any of them is trained.

    BACKBONE is a hub id, a folder with a checkpoint or, for images, a file of weights. Each runs once over the
    training rows. One that cannot be loaded is listed with the reason.

    \b
    Examples:
      tldeploy rank models/review-sentiment ./minilm ./bert-tiny
      tldeploy rank models/review-sentiment bert-base-uncased roberta-base --json
      tldeploy rank models/review-sentiment bert-base-uncased bert-large-uncased --device cuda
    """
    from tldeploy import pipeline

    candidates = pipeline.rank(recipe, backbones, device=device)
    if as_json:
        show.print_json({"backbones": [asdict(candidate) for candidate in candidates]})
    else:
        print(show.candidates(candidates))
