"""tldeploy init"""

from __future__ import annotations

import click

from tldeploy.cli.show import json_option, print_json


@click.command("init")
@click.option("--data", required=True, help="A table (CSV, TSV, JSON lines, Parquet), or a folder of images.")
@click.option("--backbone", required=True, help="A hub id, a folder with a checkpoint, or (images) a file of tensors.")
@click.option("--name", help="The model's name; by default after the data.")
@click.option("--out", help="Where recipe.yaml goes; by default models/NAME.")
@click.option("--text", help="The column of texts; found by itself if not given.")
@click.option("--image", help="The column of images, as paths or bytes; found by itself if not given.")
@click.option("--label", help="The column of labels; found by itself if not given.")
@json_option
def command(
    data: str,
    backbone: str,
    name: str | None,
    out: str | None,
    text: str | None,
    image: str | None,
    label: str | None,
    as_json: bool,
) -> None:
    """Look at your data and write a recipe that runs.

    A folder with a subfolder a class is of images, and so is a table with a column of images; any other is of texts.
    Every setting in it has a comment that says why. An existing recipe is never overwritten.

    \b
    Examples:
      tldeploy init --data reviews.csv --backbone bert-base-uncased
      tldeploy init --data tickets.jsonl --backbone ./minilm --name tickets --text body --label queue
      tldeploy init --data photos/ --backbone ./resnet50
    """
    from tldeploy import draft

    recipe = draft.init(data, backbone, name=name, out=out, text=text, label=label, image=image)
    if as_json:
        print_json({"recipe": str(recipe)})
    else:
        print(recipe.read_text(encoding="utf-8"))
        print(f"written to {recipe}; next: tldeploy run {recipe.parent}")
