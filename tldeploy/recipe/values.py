"""What settings are made of: a section of a recipe, and the kinds of values that several sections have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SHA256 = r"^[0-9a-f]{64}$"

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _stays_inside(path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError("expected a path inside the recipe's data/ folder")
    return path


def _share_or_file(value: Any) -> float | str:
    try:
        share = float(value)
    except (TypeError, ValueError):
        if isinstance(value, str):
            return value
        raise ValueError(f"found {value!r}, expected a share such as 0.2, or a file") from None
    if not 0 < share < 1:
        raise ValueError(f"found {value!r}, expected a share between 0 and 1, or a file")
    return share


def _is_a_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"found {name!r}, expected letters, digits, - and _ only (it names folders and served models)")
    return name


def no_repeats(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("expected each value once")
    return values


Inside = Annotated[str, AfterValidator(_stays_inside)]
Split = Annotated[float | str, PlainValidator(_share_or_file)]
Name = Annotated[str, AfterValidator(_is_a_name)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
