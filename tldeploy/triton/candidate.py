"""One version of a model by itself: a folder with hard links to its files, and a configuration that names no other.

A private server checks such a version before it is live (checking.py); a running one serves it, under another name,
while its own models change (running.py).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tldeploy.errors import ArtifactError
from tldeploy.triton import config
from tldeploy.triton.config import CONFIG_FILE, LABELS_FILE, LATER_CONFIG

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


# What a file system answers that has no hard links, has too many to this file, or gives them to its owner only.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def lay_out(model: str, version: int, places: Sequence[Path], into: Path, name: str = "") -> ModelConfig:
    """Make the folder `name` (by default, the model's own) in `into`, and give its configuration.

    places: the folders in which the model's files are looked for; the first that has one counts.
    """
    folder = into / (name or model)
    folder.mkdir()
    shutil.copytree(_first(model, [str(version)], places), folder / str(version), copy_function=link)
    described = alone(model, version, places)
    described.name = folder.name
    if described.output[0].label_filename:
        link(_first(model, [LABELS_FILE], places), folder / LABELS_FILE)
    (folder / CONFIG_FILE).write_text(config.to_text(described), encoding="utf-8")
    return described


def alone(model: str, version: int, places: Sequence[Path]) -> ModelConfig:
    """The model's configuration, for that version only. places: as above."""
    described = config.read(_first(model, [LATER_CONFIG, CONFIG_FILE], places))
    described.version_policy.specific.versions[:] = [version]
    return described


def link(file: str | Path, to: str | Path) -> None:
    """A hard link, or a copy where the file system gives none."""
    try:
        os.link(file, to)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(file, to)


def _first(model: str, names: Sequence[str], places: Sequence[Path]) -> Path:
    for place in places:
        for name in names:
            if (place / model / name).exists():
                return place / model / name
    found = f"{' or '.join(names)} of {model} is in none of {', '.join(map(str, places))}"
    raise ArtifactError(f"read {model}", found, "publish it again with `tldeploy deploy`")
