"""report.html and report.md: the report as one file that a person reads with no need of a network, and as one to paste.

The words of the page stand in report.html, those of the Markdown in report.md; tables and remarks are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template

from tldeploy.benchmarking.page import (
    answer_tables,
    drawing,
    engine_figures,
    engine_tables,
    stage_figures,
    stage_tables,
)
from tldeploy.benchmarking.page.markup import Table, bullets, markdown_bullets, plain
from tldeploy.benchmarking.remarks import remarks
from tldeploy.benchmarking.report import (
    SERVED_BY,
    Report,
    headline,
    metric_words,
    milliseconds,
    reported,
    weakest_class,
)
from tldeploy.environment import cores_words
from tldeploy.measuring.scenarios import MOST_ROWS_A_BLOCK, ROUNDS, SingleStream
from tldeploy.tasks.calibration import NOT_FITTED, WHY_NOT
from tldeploy.tasks.metrics import in_points

TABLES = (
    engine_tables.engines,
    engine_tables.scenarios,
    engine_tables.server,
    engine_tables.parts,
    engine_tables.opening,
    engine_tables.placement,
    answer_tables.confusion,
    answer_tables.classes,
    answer_tables.calibration,
    answer_tables.disagreements,
    stage_tables.scorecard,
    stage_tables.methods,
    stage_tables.decisions,
    stage_tables.environment,
    stage_tables.lineage,
)

# What happens to a row before the network, which every engine's latency includes.
PREPARING = {"text-classification": "tokenizing the text", "image-classification": "decoding the image"}
INSTEAD = {
    "curves": "<p>No method recorded a curve.</p>",
    "variants": "<p>The speed of the graphs was not measured.</p>",
    "parts": "<p>No engine of this run is served.</p>",
    "tradeoff": "<p>Too few requests to tell.</p>",
    "load-p50": "<p>Too few requests to tell.</p>",
    "load-p99": "<p>Too few requests to tell: p99 takes 368 of them.</p>",
}


_BLANK_LINES = re.compile(r"\n{3,}")  # that what was not measured leaves in Markdown


def render_page(report: Report, single: SingleStream) -> str:
    """The whole of report.html."""
    figures = drawing.as_html({**engine_figures.draw(report, single), **stage_figures.draw(report)})
    return fill(
        "report.html",
        {name: table.as_html() for name, table in _tables(report).items()},
        {f"plot_{name.replace('-', '_')}": plot for name, plot in {**INSTEAD, **figures}.items()},
        {name: escape(words) for name, words in _words(report).items()},
        {
            "headline": escape(headline(report)).replace("p50 ", "p50&nbsp;").replace(" ms", "&nbsp;ms"),
            "reasons": bullets(report["chosen"]["reasons"]),
            "remarks": bullets([*remarks(report), *_served(report)]),
        },
    )


def render_markdown(report: Report) -> str:
    """The whole of report.md: the tables of the page, without its plots."""
    words = {"headline": headline(report), **_words(report)}
    return fill(
        "report.md",
        {name: table.as_markdown() for name, table in _tables(report).items()},
        {name: plain(text) for name, text in words.items()},
        {
            "reasons": markdown_bullets(report["chosen"]["reasons"]),
            "remarks": markdown_bullets([*remarks(report), *_served(report)]),
        },
    )


def fill(template: str, *values: dict[str, str]) -> str:
    """A template of this folder with its values; style sheet and plotly's script are at hand for pages."""
    from plotly.offline import get_plotlyjs

    folder = files(__package__)
    given = {name: text for part in values for name, text in part.items()}
    if template.endswith(".html"):
        given |= {"css": folder.joinpath("page.css").read_text(encoding="utf-8"), "plotly": get_plotlyjs()}
    filled = Template(folder.joinpath(template).read_text(encoding="utf-8")).substitute(given)
    return filled if template.endswith(".html") else _BLANK_LINES.sub("\n\n", filled)


def when(created: str) -> str:
    return datetime.fromisoformat(created).strftime("%-d %B %Y, %H:%M UTC")


def _tables(report: Report) -> dict[str, Table]:
    return {table.__name__: table(report) for table in TABLES}


def _words(report: Report) -> dict[str, str]:
    """What the templates say of this run, as plain text."""
    return {
        "name": report["name"],
        "task": report["task"].replace("-", " "),
        "preparing": PREPARING[report["task"]],
        "rows": f"{report['rows']:,}",
        "created": when(report["created"]),
        "cores": cores_words(report["environment"]["cores"]),
        "other": _other(report),
        "chosen": report["chosen"]["variant"],
        "reported": report["reported"]["engine"],
        "metric": metric_words(report["engines"][0]["metric"]["name"]),
        "block_rows": str(MOST_ROWS_A_BLOCK),
        "rounds": str(ROUNDS),
        "weakest": weakest_class(report),
        "held_out": _held_out(report),
        "calibrated": _calibration(report),
        "differing": _differing(report),
    }


def _served(report: Report) -> Iterator[str]:
    """Why the engine of the headline is slower than the same graph without a server, where it is."""
    engine, alone = reported(report), f"onnxruntime {report['chosen']['variant']}"
    beside = next((found for found in report["engines"] if found["name"] == alone), None)
    if not beside or engine["name"] not in SERVED_BY or None in (engine["p50_ms"], beside["p50_ms"]):
        return
    if engine["p50_ms"] > beside["p50_ms"]:
        yield (
            f"{engine['name']}: its p50 of {milliseconds(engine['p50_ms'])} ms is above the "
            f"{milliseconds(beside['p50_ms'])} ms of {alone}, as a request that is alone pays for the protocol, for "
            "two steps and for waking what sleeps; see “Where the time goes”"
        )


def _other(report: Report) -> str:
    """What the tables of the other scenarios are of."""
    found = []
    if (bound_ms := engine_tables.bound_ms(report)) is not None:
        found.append(
            f"Requests that arrive at random are to be answered within {bound_ms:g} ms at p99, the bound of this run: "
            "the highest rate that keeps it, and every rate that was tried."
        )
    if any(engine["multi_stream"] for engine in report["engines"]):
        found.append("A query of some rows is answered when its last row is.")
    if any(engine["offline"] for engine in report["engines"]):
        found.append("In batches all rows are there from the start, and those of similar lengths go together.")
    return " ".join(found) or "None was run."


def _calibration(report: Report) -> str:
    """How far confidence is from truth, and what the temperature did, in one or two sentences."""
    served = f"The expected calibration error of the answers is {report['reported']['ece']:.3f}."
    if not (found := report["calibration"]):
        return f"{served} The network was not calibrated."
    if found["temperature"] == NOT_FITTED:
        return f"{served} The network was not calibrated: {WHY_NOT}."
    test = found["test"]
    return (
        f"{served} A temperature of {found['temperature']:.3f}, fitted on validation rows, brought PyTorch's own from "
        f"{test['ece_before']:.3f} to {test['ece_after']:.3f}."
    )


def _held_out(report: Report) -> str:
    """What the choice cost on rows that it did not look at, in a sentence."""
    if not (found := report["held_out"]):
        return ""
    drop, who = found["drop"], report["chosen"]["variant"]
    return (
        f"On the {drop['rows']:,} held-out rows, which no choice looked at, {who} against fp32: "
        f"{in_points(drop['points'], drop['low'], drop['high'])}."
    )


def _differing(report: Report) -> str:
    """How many rows are answered differently, and which of them are shown."""
    found = report["disagreements"]
    if not found["rows"]:
        return f"Every engine gives every row the label that {found['reference']} gives it."
    shown = "all" if len(found["shown"]) == found["rows"] else f"{len(found['shown'])} of them"
    return (
        f"On {found['rows']:,} of {report['rows']:,} rows some engine gives another label than {found['reference']}; "
        f"on {found['lost']:,} of them {report['reported']['engine']} is wrong where {found['reference']} is right."
        f" Below are {shown}: those first, then by how far the probability of the true label moved."
    )
