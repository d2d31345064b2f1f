"""Which architectures the exporter takes, out of families.json."""

from __future__ import annotations

from typing import Any

from .table import markdown


def page(found: dict[str, dict[str, Any]]) -> str:
    """The whole of families.md."""
    passed = sum(entry["outcome"].startswith("ok") for entry in found.values())
    rows = [
        [name, entry["kind"], entry["outcome"]]
        for name, entry in sorted(found.items(), key=lambda item: (item[1]["kind"], item[0]))
    ]
    head = ["architecture", "of", "exported, and largest difference to PyTorch"]
    return f"{passed} of {len(found)} architectures pass.\n\n{markdown(head, rows)}\n"
