"""Tasks: one file each, and the table that finds them by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tldeploy.errors import ArtifactError
from tldeploy.tasks.text_classification import TextClassification

TASKS = {TextClassification.name: TextClassification}


def load_task(name: str, folder: Path, labels: Sequence[str]) -> TextClassification:
    """The task of an artifact: its name and labels stand in the manifest, its preprocessing in the folder."""
    if name not in TASKS:
        known = ", ".join(TASKS)
        raise ArtifactError(
            f"use {folder}", f"its task is {name!r}", f"use a tldeploy that knows it; this one: {known}"
        )
    return TASKS[name].load(folder, labels)
