"""How many of onnx's operator tests are answered right, and which are not and why, out of conformance.json."""

from __future__ import annotations

from typing import Any

from .table import markdown


def page(report: dict[str, Any]) -> str:
    """The whole of conformance.md."""
    results, versions = report["results"], report["versions"]
    misses = [miss["class"] for miss in results.values() if miss]
    classes = sorted(set(misses), key=lambda each: (-misses.count(each), each))
    right = len(results) - len(misses)
    rows = [["right", str(right)], *([each, str(misses.count(each))] for each in classes)]
    about = (
        f"{right} of {len(results)} operator tests of onnx are answered right by the served backend; onnx "
        f"{versions['onnx']}, onnxruntime {versions['onnxruntime']}."
    )
    names = "\n".join(
        f"- **{each}**: {', '.join(name for name, miss in sorted(results.items()) if miss and miss['class'] == each)}"
        for each in classes
    )
    return f"{about}\n\n{markdown(['', 'tests'], rows)}\n\n{names}\n"
