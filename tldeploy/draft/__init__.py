"""A first recipe, drafted from a person's own data: `tldeploy init`.

1. The data is looked at: a folder of images, or a table whose columns are told apart (columns.py).
2. The backbone is looked at, without loading more of it than must be (texts.py, images.py).
3. The rows are split once for trial, so that what cannot be learnt from is refused here, and every figure is real.
4. Each setting is an artifacts.Choice: what, the value, and why; the reasons become the comments of the YAML.
5. The recipe's text is read back as a recipe, and only then written (writing.py).
"""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
from pathlib import Path

from tldeploy.artifacts import Choice, write_file
from tldeploy.data.rows import Splits, read_labelled, split_labelled
from tldeploy.draft import rows
from tldeploy.draft.columns import Found, find_columns
from tldeploy.draft.images import ImageBackbone
from tldeploy.draft.stages import serve
from tldeploy.draft.texts import TextBackbone
from tldeploy.draft.writing import as_yaml, relative
from tldeploy.errors import UsageError, storage_errors
from tldeploy.recipe import NAME, RECIPE_FILE, Data, Recipe


def init(
    data: str | Path,
    backbone: str | Path,
    name: str | None = None,
    out: str | Path | None = None,
    text: str | None = None,
    label: str | None = None,
    image: str | None = None,
) -> Path:
    """Look at labelled texts or images and write a recipe that runs; the path of the recipe.

    data: a table, or a folder of images with a subfolder a class (or one a split, and in each one a class).
    text, image, label: columns of the table, found by themselves if not given. name: by default after the data.
    out: the recipe's folder, by default models/<name>.
    Raises UsageError for a name that is none, a backbone that is none and a recipe that is there already, DataError
    for rows that cannot be learnt from, ArtifactError for a broken backbone. Then nothing has been written.
    """
    place = Path(data).expanduser()
    name = _checked_name(name, place)
    folder = Path(out).expanduser() if out else Path("models", name)
    recipe = _free(folder / RECIPE_FILE, place)
    found = find_columns(place, text, image, label)
    kind = TextBackbone if found.task == "text-classification" else ImageBackbone
    network = kind.look_at(str(backbone), folder)
    # Images out of a Parquet file are unpacked for the trial.
    with tempfile.TemporaryDirectory() as scratch:
        shares, splits = _split_for_trial(found, Path(scratch))
        settings = [
            Choice(about="name", value=name, reason="it names the served model; clients ask for it by this name."),
            Choice(about="task", value=found.task, reason=f"{found.why}; {rows.balance(splits)}"),
            Choice(
                about="data.file", value=relative(found.file.resolve(), folder), reason=rows.about_file(found, splits)
            ),
            *found.settings,
            *rows.broken(splits),
            *(_from_recipe(choice, folder) for choice in shares),
            Choice(about="data.seed", value=0, reason="the same rows are held out every time."),
            *network.settings(splits),
            *serve(folder, splits),
        ]
    written = as_yaml(settings)
    Recipe.parse(written, recipe)
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"write {recipe}", "a part of that path is a file", "give another --out") from None
    write_file(recipe, written)
    return recipe


def _checked_name(name: str | None, place: Path) -> str:
    if name is not None:
        if not NAME.fullmatch(name):
            found = "a name has letters, digits, - and _ only (it names folders and served models)"
            raise UsageError(f"name the model {name!r}", found, "give a name such as reviews-en with --name")
        return name
    own = place.resolve().name if place.is_dir() else place.stem
    plain = unicodedata.normalize("NFKD", own).encode("ascii", "ignore").decode()
    made = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")
    if not made:
        found = "it has no letter or digit of the kind that names of models have"
        raise UsageError(f"name the model after {own!r}", found, "give a name with --name")
    return made


def _free(recipe: Path, data: Path) -> Path:
    """The recipe's path. Raises UsageError where there is one, and where what is built would lie among the images."""
    if os.path.lexists(recipe):
        fix = "edit it, remove it, or give another --name or --out"
        raise UsageError(f"write {recipe}", "there is a recipe already", fix)
    if data.is_dir() and recipe.parent.resolve().is_relative_to(data.resolve()):
        found = f"it would lie among the images of {data}, and so would all that is built"
        raise UsageError(f"write {recipe}", found, "give another --out")
    return recipe


def _from_recipe(share: Choice, folder: Path) -> Choice:
    """A share as it is; a folder in its stead as seen from the recipe's."""
    if isinstance(share.value, str):
        return share.model_copy(update={"value": relative(Path(share.value), folder)})
    return share


def _split_for_trial(found: Found, scratch: Path) -> tuple[list[Choice], Splits]:
    """The shares to hold out, and the splits that they give. Raises DataError for what cannot be learnt from."""
    chosen = {choice.about.removeprefix("data."): choice.value for choice in found.settings}
    trial = Data(**chosen, file=str(found.file.resolve()), broken="skip")
    read = read_labelled(trial, trial.file, scratch, found.task)
    rows.refuse_mostly_broken(read)
    shares = rows.shares(read, found.own)
    test, validation = (choice.value for choice in shares)
    trial = trial.model_copy(update={"test": test, "validation": validation})
    return shares, split_labelled(read, trial, scratch, found.task)
