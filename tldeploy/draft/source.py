"""Where a backbone comes from, as a person names it: a folder, or an id on the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tldeploy.errors import ArtifactError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


def is_on_hub(backbone: str) -> bool:
    """Whether it could be: it has the form of an id, and nothing here has its name."""
    return bool(HUB_ID.fullmatch(backbone)) and not Path(backbone).expanduser().exists()


def read_config(folder: Path, asked: str, fix: str) -> dict[str, Any]:
    """Raises ArtifactError for a config.json that is absent, damaged, holds no settings, or is of a diffusion model."""
    from tldeploy.backbones.checkpoints import refuse_diffusers

    try:
        config: dict[str, Any] = {**json.loads((folder / "config.json").read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        refuse_diffusers(str(folder), asked)
        raise ArtifactError(asked, f"its config.json cannot be read ({error})", fix) from error
    if "model_type" not in config:  # as every config of transformers has
        refuse_diffusers(str(folder), asked)
    return config
