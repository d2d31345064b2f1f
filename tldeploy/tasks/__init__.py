"""Tasks: one file each, and the table that finds them by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tldeploy.errors import ArtifactError

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Classification

# Imported when first used: a text model needs no image library.
TASKS = {
    "text-classification": ("tldeploy.tasks.text_classification", "TextClassification"),
    "image-classification": ("tldeploy.tasks.image_classification", "ImageClassification"),
}


def task_class(name: str) -> type[Classification]:
    module, cls = TASKS[name]
    found: type[Classification] = getattr(import_module(module), cls)
    return found


def load_task(name: str, folder: Path, labels: Sequence[str]) -> Classification:
    """The task of an artifact: its name and labels stand in the manifest, its preprocessing in the folder."""
    if name not in TASKS:
        known = ", ".join(TASKS)
        raise ArtifactError(
            f"use {folder}", f"its task is {name!r}", f"use a tldeploy that knows it; this one: {known}"
        )
    return task_class(name).load(folder, labels)
