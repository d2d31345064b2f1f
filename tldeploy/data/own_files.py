"""The files of a recipe's own that tuning reads, each by its hash: when one changes, what was tuned is out of date."""

from __future__ import annotations

import os
from pathlib import Path

from tldeploy.artifacts import file_sha256
from tldeploy.recipe import Recipe


def own_files(recipe: Recipe) -> dict[str, dict[str, str]]:
    """sha256 of every file, by the setting's file or folder and the place in it; hub ids are no files.

    Of a table of images, the images that it names are among them. Raises DataError for a table that cannot be read.
    """
    data, adapt = recipe.data, recipe.adapt
    rows = [(name, data.image, data.encoding, data.delimiter) for name in (data.file, data.test, data.validation)]
    if adapt is not None:
        own = (adapt.image or data.image, adapt.encoding or data.encoding, adapt.delimiter or data.delimiter)
        rows += [(name, *own) for name in (adapt.file, adapt.test)]
    found = {}
    for name, image, encoding, delimiter in rows:
        if isinstance(name, str) and recipe.path(name).exists():
            found[name] = _content_of(recipe.path(name))
            if recipe.task == "image-classification" and recipe.path(name).is_file():
                found[name] |= _images_of(recipe.path(name), image, encoding, delimiter)
    if recipe.path(recipe.backbone.source).exists():
        found[recipe.backbone.source] = _content_of(recipe.path(recipe.backbone.source))
    return found


def _content_of(place: Path) -> dict[str, str]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {str(file.relative_to(place)): file_sha256(file) for file in files}


def _images_of(table: Path, image: str, encoding: str, delimiter: str | None) -> dict[str, str]:
    from tldeploy.data.images import named_files

    named = (path for path in named_files(table, image, encoding, delimiter) if path.is_file())
    return {os.path.relpath(path, table.parent): file_sha256(path) for path in named}
