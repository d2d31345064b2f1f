"""tldeploy init"""

from __future__ import annotations

import click

from tldeploy.cli.show import json_option, print_json


@click.command("init")
@click.option("--data", required=True, help="Your labelled rows: CSV, TSV or JSON lines.")
@click.option("--backbone", required=True, help="A hub id, or a folder with a checkpoint.")
@click.option("--name", help="The model's name; by default after the file.")
@click.option("--out", help="Where recipe.yaml goes; by default models/NAME.")
@click.option("--text", help="The column of texts; found by itself if not given.")
@click.option("--label", help="The column of labels; found by itself if not given.")
@json_option
def command(
    data: str, backbone: str, name: str | None, out: str | None, text: str | None, label: str | None, as_json: bool
) -> None:
    """Look at your data and write a recipe that runs.

    Every setting in it has a comment that says why. An existing recipe is never overwritten.

    \b
    Examples:
      tldeploy init --data reviews.csv --backbone bert-base-uncased
      tldeploy init --data tickets.jsonl --backbone ./minilm --name tickets --text body --label queue
    """
    from tldeploy import draft

    recipe = draft.init(data, backbone, name=name, out=out, text=text, label=label)
    if as_json:
        print_json({"recipe": str(recipe)})
    else:
        print(recipe.read_text(encoding="utf-8"))
        print(f"written to {recipe}; next: tldeploy run {recipe.parent}")
