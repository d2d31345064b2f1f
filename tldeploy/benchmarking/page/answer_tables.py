"""Where answers are right, how sure they are, where engines disagree: one function a table, from the report alone."""

from __future__ import annotations

from html import escape
from typing import Any

from tldeploy.benchmarking.page.markup import Cell, Table, lines, number, words
from tldeploy.benchmarking.report import Report


def confusion(report: Report) -> Table:
    """Rows are true classes, columns answered ones; the shade of a cell is its share of the true class."""
    rows = [
        [words(label), *(number(count, ",d", shade=count / max(sum(counts), 1)) for count in counts)]
        for label, counts in zip(report["labels"], report["reported"]["confusion"], strict=True)
    ]
    return Table("confusion", ["true ↓  answered →", *report["labels"]], rows)


def classes(report: Report) -> Table:
    rows = [
        [
            words(found["label"]),
            *(number(found[name], ".3f") for name in ("f1", "precision", "recall")),
            number(found["support"], ",d"),
        ]
        for found in report["reported"]["classes"]
    ]
    return Table("classes", ["class", "F1", "precision", "recall", "rows"], rows)


def calibration(report: Report) -> Table:
    """How far every engine's confidence is from the truth."""
    rows = [[words(engine["name"]), number(engine["ece"], ".4f")] for engine in report["engines"]]
    names = [engine["name"] for engine in report["engines"]]
    return Table("calibration", ["engine", "ECE"], rows, names.index(report["reported"]["engine"]))


def disagreements(report: Report) -> Table:
    """Rows on which an engine's label is not the reference's; engines that say the same share a line."""
    found = report["disagreements"]
    rows = [[_input(shown), words(shown["truth"]), _answers(shown, found["reference"])] for shown in found["shown"]]
    return Table("disagreements", ["row", "true", "answered, with its probability"], rows)


def _input(shown: dict[str, Any]) -> Cell:
    number_and_text = words(shown["input"], f"row {shown['row']}")
    if not (image := shown.get("thumbnail")):
        return number_and_text
    return Cell(f'<img alt="" src="{escape(image)}">{number_and_text.markup}', number_and_text.text)


def _answers(shown: dict[str, Any], reference: str) -> Cell:
    """A line for each label that was answered, the reference's first, the right one ticked."""
    by_label: dict[str, list[str]] = {}
    for answer in sorted(shown["answers"], key=lambda answer: answer["engine"] != reference):
        said = f"{answer['engine']} {answer['probability']:.2f}"
        by_label.setdefault(answer["label"], []).append(said)
    return lines(
        [
            Cell(
                f'<b class="{"right" if label == shown["truth"] else "wrong"}">{words(label).markup}</b> '
                f"<span>{words(', '.join(engines)).markup}</span>",
                f"{label} {'✓' if label == shown['truth'] else '✗'}: {', '.join(engines)}",
            )
            for label, engines in by_label.items()
        ]
    )
