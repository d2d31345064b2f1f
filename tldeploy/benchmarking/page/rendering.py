"""report.html: the report as one file that a person reads, with no need of a network.

The words stand in page.html, the looks in report.css, the plots come from figures.py and the tables from tables.py.
"""

from __future__ import annotations

from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template

from tldeploy.benchmarking.page import figures, tables
from tldeploy.benchmarking.remarks import remarks
from tldeploy.benchmarking.report import Report, headline, metric_words
from tldeploy.measuring.scenarios import MOST_ROWS_A_BLOCK, ROUNDS, SingleStream

TABLES = (
    tables.engines,
    tables.scenarios,
    tables.server,
    tables.scorecard,
    tables.confusion,
    tables.classes,
    tables.methods,
    tables.decisions,
    tables.environment,
    tables.lineage,
)

# What happens to a row before the network, which every engine's latency includes.
PREPARING = {"text-classification": "tokenizing the text", "image-classification": "decoding the image"}
INSTEAD = {
    "curves": "<p>No method recorded a curve.</p>",
    "variants": "<p>The speed of the graphs was not measured.</p>",
}


def _calibration(report: Report) -> str:
    """How far confidence is from truth, and what the temperature did, in one or two sentences."""
    served = f"The expected calibration error of the answers is {report['reported']['ece']:.3f}."
    if not (found := report["calibration"]):
        return f"{served} The network was not calibrated."
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
        f"On the {drop['rows']:,} held-out rows, which no choice looked at, {who} lost {drop['points']:+.2f} points "
        f"[{drop['low']:+.2f}, {drop['high']:+.2f}] against fp32."
    )


def render_page(report: Report, single: SingleStream) -> str:
    """The whole of report.html."""
    from plotly.offline import get_plotlyjs

    package = files("tldeploy.benchmarking.page")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in report["chosen"]["reasons"])
    return Template(package.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        {table.__name__: table(report) for table in TABLES},
        **{f"plot_{name}": plot for name, plot in {**INSTEAD, **figures.draw(report, single)}.items()},
        held_out=escape(_held_out(report)),
        calibration=escape(_calibration(report)),
        css=package.joinpath("page.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        name=escape(report["name"]),
        task=escape(report["task"].replace("-", " ")),
        preparing=PREPARING[report["task"]],
        headline=escape(headline(report)).replace("p50 ", "p50&nbsp;").replace(" ms", "&nbsp;ms"),
        rows=f"{report['rows']:,}",
        created=datetime.fromisoformat(report["created"]).strftime("%-d %B %Y, %H:%M UTC"),
        chosen=escape(report["chosen"]["variant"]),
        reasons=reasons,
        remarks="".join(f"<li>{escape(remark)}</li>" for remark in remarks(report)),
        reported=escape(report["reported"]["engine"]),
        metric=escape(metric_words(report["engines"][0]["metric"]["name"])),
        block_rows=str(MOST_ROWS_A_BLOCK),
        rounds=str(ROUNDS),
    )
