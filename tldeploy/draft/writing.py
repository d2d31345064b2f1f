"""The text of a drafted recipe: one line a setting, its reason as a comment above it, one block a section."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tldeploy.artifacts import Choice


def relative(path: Path, folder: Path) -> str:
    """From the recipe's real folder: `..` of a linked folder leads elsewhere than it looks."""
    return Path(os.path.relpath(path, folder.resolve())).as_posix()


def as_yaml(settings: Iterable[Choice]) -> str:
    """Each line of a reason starts a line of its comment."""
    lines = ["# Drafted by `tldeploy init`. Each comment says why; change what you know better."]
    open_section = ""
    for choice in settings:
        section, _, key = choice.about.rpartition(".")
        indent = "  " if section else ""
        if section != open_section:
            lines += ["", f"{section}:"]
            open_section = section
        elif not section:
            lines.append("")
        prefix = f"{indent}# "
        for line in choice.reason.split("\n"):
            lines += textwrap.wrap(
                line,
                110,
                initial_indent=prefix,
                subsequent_indent=prefix,
                break_long_words=False,
                break_on_hyphens=False,
            )
        if isinstance(choice.value, dict):
            lines.append(f"{indent}{key}:")
            lines += [f"{indent}  {name}: {_scalar(value)}" for name, value in choice.value.items()]
        else:
            lines.append(f"{indent}{key}: {_scalar(choice.value)}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value) if value >= 0.001 else f"{value:.1e}"  # YAML wants the point: 3e-05 would be a text
    if not isinstance(value, str):
        return str(value)
    is_plain = re.fullmatch(r"[A-Za-z0-9_./-]*[A-Za-z0-9][A-Za-z0-9_./-]*", value) and yaml.safe_load(value) == value
    return value if is_plain else quoted(value)


def quoted(text: str) -> str:
    """Double-quoted as in YAML and JSON; what could end a line or is no printable character is escaped."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in escaped
    )


def printable(text: str) -> str:
    """As it stands in a comment: what could end the line is escaped."""
    return text if text.isprintable() else quoted(text)
