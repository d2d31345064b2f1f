"""What a person's data is: its task, told from the data itself, and how its rows are read.

A folder is of images, with a subfolder a class; or with one a split (train, test), and in each one a class. A table
with a column of images is of images too; any other is of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tldeploy.artifacts import Choice
from tldeploy.data.image_profile import find_image, refuse_absent_images
from tldeploy.data.profile import Source, cut_into_bins, find_label, find_text, open_table
from tldeploy.data.sources import Table
from tldeploy.errors import DataError, UsageError
from tldeploy.recipe import TaskName

# What people call the folder of a split, and the setting that it is for.
SPLITS = {
    **dict.fromkeys(("train", "training"), "data.file"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "data.validation"),
    **dict.fromkeys(("test", "testing", "eval"), "data.test"),
}
NAMED = "it was named when this recipe was drafted."


@dataclass(frozen=True)
class Found:
    """task: and `why` it is that. file: the table or folder to learn from. settings: of `data`, without its files.

    columns: how many a table has; 0 for a folder. own: the folders of data.test and data.validation, if they have one.
    """

    task: TaskName
    why: str
    file: Path
    settings: list[Choice]
    columns: int = 0
    own: Mapping[str, Path] = field(default_factory=dict)


def find_columns(path: Path, text: str | None, image: str | None, label: str | None) -> Found:
    """Look at a folder or a table. text, image, label: the columns that a person has named.

    Raises UsageError for names that do not go together, DataError for columns that are not there or cannot be found.
    """
    options = {"--text": text, "--image": image, "--label": label}
    named = {option: column for option, column in options.items() if column is not None}
    if path.is_dir():
        if named:
            found = "it is a folder, where the files are the images and the subfolders are the classes"
            raise UsageError(f"read columns of {path}", found, f"leave out {' and '.join(named)}, or name a table")
        return _folder(path)
    _refuse_repeated(named)
    source = open_table(path)
    table = source.table
    for option, column in named.items():
        if option != "--image" or column not in table.unusable:
            table.column(column, option)
    row = _given("data.image", image) or (None if text else find_image(table, label))
    if row:
        task: TaskName = "image-classification"
        why = f"the column {row.value!r} holds images"
    else:
        task, why = "text-classification", "the rows are texts"
        row = _given("data.text", text) or _find_text(table, label)
    return Found(task, why, path, [row, *_reading(source, row.value, label)], len(table.columns) + len(table.unusable))


def _folder(path: Path) -> Found:
    """Its subfolders are the classes; or they are splits, of which one is to be learnt from."""
    folders = [child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")]
    splits = {SPLITS[child.name.lower()]: child for child in folders if child.name.lower() in SPLITS}
    why = "the data is a folder with a subfolder of images for each class"
    if "data.file" in splits and len(splits) == len(folders) > 1:
        own = {about: folder for about, folder in splits.items() if about != "data.file"}
        return Found("image-classification", f"{why} in each split", splits["data.file"], [], own=own)
    return Found("image-classification", why, path, [])


def _refuse_repeated(named: dict[str, str]) -> None:
    if "--text" in named and "--image" in named:
        raise UsageError("draft a recipe", "both --text and --image are given", "name what is to be classified by one")
    for option, what in (("--text", "texts"), ("--image", "images")):
        if option in named and named[option] == named.get("--label"):
            found, fix = f"both are {named[option]!r}", f"give {option} and --label different columns"
            raise UsageError(f"tell {what} from labels", found, fix)


def _given(about: str, column: str | None) -> Choice | None:
    return None if column is None else Choice(about=about, value=column, reason=NAMED)


def _find_text(table: Table, label: str | None) -> Choice:
    try:
        return find_text(table, label)
    except DataError:
        refuse_absent_images(table)
        raise


def _reading(source: Source, row: str, label: str | None) -> list[Choice]:
    """The label column, how the file is read, and the bins of a column of numbers."""
    table = source.table
    choices = [_given("data.label", label) or find_label(table, row)]
    name = choices[0].value
    bins = cut_into_bins(name, table.column(name, "--label"))
    if source.encoding != "utf-8":
        reason = f"the file is not UTF-8; it reads as {source.encoding}. If letters look wrong, name another."
        choices.append(Choice(about="data.encoding", value=source.encoding, reason=reason))
    if not source.delimiter_is_implied:
        reason = f"with it every row has the {len(table.columns)} cells that the header has."
        choices.append(Choice(about="data.delimiter", value=source.delimiter, reason=reason))
    return [*choices, bins] if bins else choices
