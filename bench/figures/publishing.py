"""Whether publishing under load loses a request or gives a wrong answer, out of publishing.json."""

from __future__ import annotations

from typing import Any

from .table import markdown


def page(report: dict[str, Any]) -> str:
    """The whole of publishing.md."""
    sections = []
    for part, found in report["parts"].items():
        rows = [[name, _words(value)] for name, value in found.items() if name not in {"examples", "faults"}]
        sections.append(f"## {part}\n\n{markdown(['', 'found'], rows)}\n")
        faults = [*found.get("examples", []), *found.get("faults", [])]
        sections.append("".join(f"- {fault}\n" for fault in faults) or "Nothing was found wrong.\n")
    return "# Publishing under load, and killed publishers\n\n" + "\n".join(sections)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    if isinstance(value, list):
        return f"{min(value)} to {max(value)}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
