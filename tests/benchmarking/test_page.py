from __future__ import annotations

import re
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.benchmarking.conftest import HOSTILE, Job
from tldeploy.benchmarking.page.answer_tables import disagreements
from tldeploy.benchmarking.page.drawing import apart, pareto_front
from tldeploy.benchmarking.page.engine_tables import opening, scenarios, server
from tldeploy.benchmarking.page.markup import Table, number, words
from tldeploy.benchmarking.page.rendering import render_markdown
from tldeploy.benchmarking.page.stage_tables import methods

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What a browser would see: elements, texts outside scripts and styles, and tables as lists of cells.

    A cell is its text, and the exact figures of its <data> elements.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.styles = self.words = ""
        self.tables: dict[str, list[list[tuple[str, list[float]]]]] = {}
        self._table = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = values["id"] or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in {"td", "th"}:
            self.tables[self._table][-1].append(("", []))
        elif tag == "data":
            self.tables[self._table][-1][-1][1].append(float(values["value"] or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if "style" in self.open:
            self.styles += text
        elif "script" not in self.open:
            self.words += text
            if "td" in self.open or "th" in self.open:
                before, figures = self.tables[self._table][-1][-1]
                self.tables[self._table][-1][-1] = (before + text, figures)


@pytest.fixture(scope="module")
def page(job: Job) -> Page:
    return Page(job.page)


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_nothing_outside_the_file_is_referred_to(page: Page) -> None:
    outside = {"src", "href", "srcset", "data", "action", "poster"}
    named = [values[name] or "" for _, values in page.elements for name in outside & set(values)]
    assert [name for name in named if not name.startswith(("#", "data:"))] == []
    assert "@import" not in page.styles
    assert "url(" not in page.styles


def test_plotly_is_in_it_once_and_draws_every_plot(job: Job, page: Page) -> None:
    assert job.page.count("plotly.js v") == 1
    drawn = [values["id"] for tag, values in page.elements if "plotly-graph-div" in (values.get("class") or "")]
    assert drawn == [
        *("plot-tradeoff", "plot-latency", "plot-throughput", "plot-load-p50", "plot-load-p99", "plot-parts"),
        *("plot-variants", "plot-calibration"),
    ]
    assert "No method recorded a curve." in job.page


def test_labels_are_escaped(job: Job, page: Page) -> None:
    assert HOSTILE not in job.page
    assert page.tables["confusion"][0][2][0] == HOSTILE
    assert page.tables["classes"][2][0][0] == HOSTILE
    assert page.tables["classes"][3][0][0] == "positive & more"


def test_the_engines_table_has_the_reports_exact_figures(job: Job, page: Page) -> None:
    head, *rows = page.tables["engines"]
    assert [title for title, _ in head[:6]] == [
        "engine",
        "p50 ms",
        "p90 ms",
        "rows/s, 1 client",
        "rows/s, 4 clients",
        "weighted F1",
    ], "p99 has no column, as no engine was asked often enough"
    for row, engine in zip(rows, job.report["engines"], strict=True):
        expected = []
        for name in ("p50_ms", "p90_ms"):
            low, high = engine[f"{name}_interval"]
            expected.append([engine[name]] if high is None else [engine[name], low, high])
        expected += [[value] for value in engine["throughput_per_s"].values()]
        expected += [[engine[part][end] for end in ("value", "low", "high")] for part in ("metric", "speedup")]
        assert row[0][0] == f"{engine['name']} {engine['provider']}"
        assert [figures for _, figures in row[1:]] == [*expected, [engine["agreement"]]]


def test_the_other_scenarios_have_their_tables(job: Job, page: Page) -> None:
    head, *rows = page.tables["scenarios"]
    titles = [title for title, _ in head]
    assert titles[:3] == ["engine", "query of 8 rows, p50 ms", "rows/s in batches"]
    served = job.report["engines"][2]
    assert rows[2][titles.index("highest rate/s, p99 within 100 ms")][1] == [served["server"]["highest_rate_per_s"]]
    assert rows[0][titles.index("rows/s in batches")][1] == [job.report["engines"][0]["offline"]["rows_per_s"]]
    assert "answered within 100 ms at p99, the bound of this run" in page.words
    assert [text for text, _ in page.tables["server"][0]][5:] == [
        *("over 100 ms", "requests", "sent late, p99 ms", "generator's share of a core", "p99 within 100 ms"),
        "figures of",
    ]
    trials = page.tables["server"][1:]
    assert [row[1][1] for row in trials] == [[40.0], [490.0]]
    assert [row[-2][0] for row in trials] == ["kept", "not kept"]
    assert "noise: triton http against itself" in page.words


def test_the_figures_that_are_read_are_roundings_of_the_exact_ones(page: Page) -> None:
    checked = 0
    names = ("engines", "scenarios", "server", "parts", "scorecard", "confusion", "classes", "calibration", "methods")
    for table in names:
        for text, figures in (cell for row in page.tables[table][1:] for cell in row if cell[1]):
            if table == "scorecard" and len(figures) == 1 and figures[0] > 1e6:
                continue  # bytes, read as megabytes
            shown = [Decimal(part.replace(",", "")) for part in re.findall(r"[-+]?[\d,.]+(?:e-?\d+)?", text)]
            scale = 100 if "%" in text else 1
            for part, figure in zip(shown, figures, strict=True):
                last_place = 10.0 ** int(part.as_tuple().exponent)
                assert abs(float(part) - scale * figure) <= 0.5001 * last_place
                checked += 1
    assert checked > 60


def test_the_other_tables_are_the_reports(job: Job, page: Page) -> None:
    report = job.report
    assert [[figures[0] for _, figures in row[1:]] for row in page.tables["confusion"][1:]] == report["reported"][
        "confusion"
    ]
    assert [row[0][0] for row in page.tables["scorecard"][1:]] == ["fp32", "fused", "int8-dynamic"]
    assert [row[-2][0] for row in page.tables["scorecard"][1:]] == ["kept", "refused, deleted", "kept"]
    assert [row[0][0] for row in page.tables["methods"][1:]] == list(report["methods"])
    assert [row[2][0] for row in page.tables["decisions"][1:]] == [choice["reason"] for choice in report["decisions"]]
    assert {row[0][0]: row[1][0] for row in page.tables["lineage"][1:]} == report["parents"]


def test_the_scorecard_has_both_speeds_and_what_loading_costs(page: Page) -> None:
    head, *rows = page.tables["scorecard"]
    figures = dict(zip((title for title, _ in head), (found for _, found in rows[2]), strict=True))
    assert figures["times fp32"] == [2.5, 2.4, 2.6]
    assert figures["times fp32, in batches"] == [2.125, 2.0, 2.25]
    assert (figures["load ms"], figures["memory MB"]) == ([141.2], [61.25])
    assert (
        "On the 60 held-out rows, which no choice looked at, int8-dynamic against fp32: +0.20 points lost" in page.words
    )


def test_the_plot_of_the_variants_marks_the_chosen_one_and_says_why_others_were_refused(job: Job) -> None:
    plot = job.page[job.page.index('id="plot-variants"') :]
    plot = plot[: plot.index("</script>")]
    assert '"name":"int8-dynamic, chosen"' in plot
    assert '"name":"fused, refused"' in plot
    assert "not surely faster than fp32 &amp; its like" in plot


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(5.0, 0.8)], [(5.0, 0.8)]),
        ([(5.0, 0.8), (2.0, 0.79), (3.0, 0.7)], [(2.0, 0.79), (5.0, 0.8)]),
        ([(5.0, 0.8), (2.0, 0.8), (2.0, 0.7)], [(2.0, 0.8)]),
    ],
)
def test_on_the_front_are_those_that_no_other_beats(
    points: list[tuple[float, float]], front: list[tuple[float, float]]
) -> None:
    assert pareto_front(points) == front


def test_methods_of_another_domain_have_their_score(job: Job) -> None:
    report = {**job.report, "methods": {**job.report["methods"], "self-training": {"score": 0.5123, "seconds": 3.0}}}
    head, *rows = Page(f"<div>{methods(report).as_html()}</div>").tables["methods"]
    assert [text for text, _ in head] == [
        "method",
        "source validation rows",
        "held-out rows",
        "label-free score",
        "seconds",
    ]
    assert [row[3] for row in rows] == [("", []), ("", []), ("0.512", [0.5123])]


def test_the_reported_engine_and_the_chosen_variant_are_marked(page: Page) -> None:
    rows = [values.get("class") for tag, values in page.elements if tag == "tr"]
    assert rows.count("marked") == 4  # engine, its calibration, variant, method


def test_the_headline_opens_the_page(page: Page) -> None:
    assert "int8-dynamic, served by Triton over HTTP: weighted F1 0." in page.words


def test_every_section_is_in_the_table_of_contents(page: Page) -> None:
    sections = [values["id"] for tag, values in page.elements if tag == "section"]
    assert [values["href"] for tag, values in page.elements if tag == "a"] == [f"#{name}" for name in sections]


def test_the_parts_of_a_request_add_up_to_what_a_client_waited(job: Job, page: Page) -> None:
    head, *rows = page.tables["parts"]
    assert [title for title, _ in head[1:]] == [
        "client, protocol and network",
        *(f"{step}: {part}" for step in ("tokenize", "graph") for part in ("queue", "input", "infer", "output")),
        "between the steps",
        "all, ms",
        "rows in a run of the graph",
    ]
    assert [row[0][0] for row in rows] == ["triton http 1 client", "triton http 4 clients"]
    for row in rows:
        *parts, whole, merged = (found[0] for _, found in row[1:])
        assert sum(parts) == pytest.approx(whole)
        assert parts[1:-1] == pytest.approx([0.1, 0, 0.25, 0.05, 0.2, 0.05, 0.25, 0])
        assert merged == 2


def test_every_engine_has_its_calibration_error(job: Job, page: Page) -> None:
    assert [row[1][1] for row in page.tables["calibration"][1:]] == [
        [engine["ece"]] for engine in job.report["engines"]
    ]


def test_rows_that_engines_disagree_on_are_shown_with_every_answer(page: Page) -> None:
    first, *others = page.tables["disagreements"][1:]
    assert [row[0][0] for row in (first, *others)] == [f"{n} row {n}" for n in (9, 19, 29, 39, 49, 59)]
    assert first[1][0] == "negative"
    assert first[2][0] == f"negative torch eager 0.80{HOSTILE} onnxruntime int8-dynamic 0.80, triton http 0.80"
    assert (
        "On 6 of 60 rows some engine gives another label than torch eager; on 6 of them triton http is wrong"
        in page.words
    )


def test_images_that_engines_disagree_on_are_shown(job: Job) -> None:
    shown = {**job.report["disagreements"]["shown"][0], "input": "shoe.png", "thumbnail": "data:image/jpeg;base64,AAAA"}
    table = disagreements({**job.report, "disagreements": {"reference": "torch eager", "shown": [shown]}})
    page = Page(f"<div>{table.as_html()}</div>")
    assert [values["src"] for tag, values in page.elements if tag == "img"] == ["data:image/jpeg;base64,AAAA"]
    assert page.tables["disagreements"][1][0][0] == "shoe.png row 9"


def test_what_an_engine_costs_to_open_is_shown_as_far_as_it_was_measured(job: Job, page: Page) -> None:
    warm_up = {"requests": 80, "seconds": 1.52, "settled": False}
    assert [text for text, _ in page.tables["opening"][0][:3]] == ["engine", "warm-up, requests", "warm-up, s"]
    opened = {"seconds": 1.25, "memory_mb": 300.4, "size_bytes": 90_000_000}
    engine = {**job.report["engines"][0], "opening": opened, "warm_up": warm_up}
    shown = opening({**job.report, "engines": [engine]}).as_markdown()
    assert shown.splitlines()[-1] == "| torch eager | 1.25 | 300 | 90.0 | 80 | 1.5 | never settled |"


def test_what_too_few_requests_say_is_marked_as_unsure(job: Job) -> None:
    kept, refused = job.report["engines"][2]["server"]["trials"]
    few = {**kept, "p99_ms": None, "p99_ms_interval": None, "samples": 66, "needed": {"p99_ms": 548}}
    served = {**job.report["engines"][2]["server"], "trials": [few, refused]}
    report = {**job.report, "engines": [{**job.report["engines"][2], "server": served}]}
    row = server(report).as_markdown().splitlines()[2]
    assert "| needs 548 |" in row
    assert "kept (unsure: too few requests)" in row
    assert "40.0 (unsure: too few requests)" in scenarios(report).as_markdown()


def test_the_headlines_latency_is_explained_beside_that_without_a_server(job: Job, page: Page) -> None:
    assert "of onnxruntime int8-dynamic, as a request that is alone pays for the protocol" in page.words
    assert f"{job.report['environment']['cores']} core" in page.words


def test_a_run_that_is_too_short_for_a_p50_can_be_shown(job: Job) -> None:
    engines = [{**engine, "p50_ms": None, "p50_ms_interval": None} for engine in job.report["engines"]]
    shown = render_markdown({**job.report, "engines": engines})
    assert "p50 - ms" in shown
    assert "pays for the protocol" not in shown


def test_the_markdown_has_the_same_tables(job: Job, page: Page) -> None:
    text = (job.folder / "report.md").read_text(encoding="utf-8")
    assert text == render_markdown(job.report)
    assert HOSTILE not in text
    for name, rows in page.tables.items():
        assert f"| {' '.join(rows[0][0][0].split())} |" in text, name
    for engine in job.report["engines"]:
        metric = engine["metric"]
        assert f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]" in text


def test_markdown_shows_what_would_be_markup_as_it_is() -> None:
    table = Table(
        "t", ["a", "b"], [[words("<b> | *x*\n[y](z)"), number(1.5, ".2f")], [words("z"), number(2, ".0f")]], 1
    )
    assert table.as_markdown().splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        r"| \<b\> \| \*x\* [y]\(z) | 1.50 |",
        "| **z** | **2** |",
    ]


@pytest.mark.parametrize("wanted", [[0.5], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5, 0.5], [0.99, 0.98, 0.01, 0.0]])
def test_names_beside_points_do_not_meet_and_stay_in_order(wanted: list[float]) -> None:
    found = apart(wanted, 0.1, 0.05, 0.95)
    assert all(above - below >= 0.1 - 1e-9 for above, below in pairwise(found))
    assert max(found) <= 0.95 + 1e-9
    assert min(found) >= 0.05 - 1e-9
    if len(wanted) == 3:
        assert found == pytest.approx(wanted), "where there is room they stay"
