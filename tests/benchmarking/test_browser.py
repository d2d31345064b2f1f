"""The pages in a real browser, without a network: what only a browser can tell of them. Each is loaded once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.benchmarking.browser import PACKAGES, Browser, browsing, missing
from tests.benchmarking.conftest import HOSTILE, Job
from tldeploy.benchmarking.comparison import compare_runs
from tldeploy.benchmarking.older import read_older
from tldeploy.benchmarking.page.comparing import write_comparison

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"{', '.join(missing())} missing; install {PACKAGES}")
REPORT = pytest.mark.parametrize("seen", ["report.html"], indirect=True)
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")

# Contrast by WCAG 2.2, of every text that is seen, over all that lies behind it.
CONTRAST = """
const channels = text => {
  const parts = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  if (text.startsWith("color(")) return [...parts.slice(0, 3).map(part => 255 * part), parts[3] ?? 1];
  return [...parts.slice(0, 3), parts[3] ?? 1];
};
const over = ([r, g, b, a], [R, G, B]) => [a * r + (1 - a) * R, a * g + (1 - a) * G, a * b + (1 - a) * B];
const luminance = color => color.map(part => part / 255)
  .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
const behind = element => {
  const layers = [];
  for (; element; element = element.parentElement) layers.push(channels(getComputedStyle(element).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
  if (!text || element.closest("script, style, #js-plotly-tester") || !element.getClientRects().length) continue;
  const style = getComputedStyle(element), paper = behind(element);
  const ink = over(channels(element instanceof SVGElement ? style.fill : style.color), paper);
  const [low, high] = [luminance(ink), luminance(paper)].sort((a, b) => a - b);
  found.push([(high + 0.05) / (low + 0.05), text.slice(0, 40)]);
}
return found;
"""
# What is wider than the window, but for what scrolls by itself.
TOO_WIDE = """
return [...document.querySelectorAll("body *")]
  .filter(element => !element.closest(".scroll > *, nav > *, script, style, .main-svg > *"))
  .filter(element => { const box = element.getBoundingClientRect(); return box.width && box.right > innerWidth + 0.5; })
  .map(element => `${element.tagName} ${element.getAttribute("class")} ${element.textContent.slice(0, 30)}`);
"""
# Of plots, texts that their edges cut off, and names of points that touch each other.
CUT_OFF = """
return [...document.querySelectorAll(".js-plotly-plot .main-svg text")].filter(text => {
  const box = text.getBoundingClientRect(), plot = text.closest(".js-plotly-plot").getBoundingClientRect();
  return box.width && (box.left < plot.left - 1 || box.right > plot.right + 1 || box.bottom > plot.bottom + 1);
}).map(text => `${text.closest(".js-plotly-plot").id}: ${text.textContent}`);
"""
TOUCHING = """
return [...document.querySelectorAll(".js-plotly-plot")].flatMap(plot => {
  const names = [...plot.querySelectorAll(".annotation text")].map(text => [text, text.getBoundingClientRect()]);
  const touch = (one, other) => one.left < other.right && other.left < one.right
    && one.top < other.bottom && other.top < one.bottom;
  return names.flatMap(([name, one], at) => names.slice(at + 1)
    .filter(([, other]) => touch(one, other))
    .map(([other]) => `${plot.id}: ${name.textContent}, ${other.textContent}`));
});
"""
PLOTS = """
return Object.fromEntries([...document.querySelectorAll(".js-plotly-plot")].map(plot => [plot.id, {
  traces: plot.data.length,
  drawn: [...plot.querySelectorAll(".scatterlayer .trace, .barlayer .trace")]
    .filter(trace => trace.querySelector("path")).length,
  spare: plot.closest("figure").clientWidth - plot.querySelector(".main-svg").getBoundingClientRect().width,
  high: plot.querySelector(".main-svg").getBoundingClientRect().height,
}]));
"""
CELLS = """
return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]
  .map(row => [...row.querySelectorAll("data")].map(figure => Number(figure.value)));
"""


@dataclass(frozen=True)
class Seen:
    """A page that was loaded: what the console said, and which requests were made. job: whose report it is."""

    browser: Browser
    job: Job
    console: list[dict[str, Any]]
    requests: list[str]

    @property
    def engines(self) -> list[dict[str, Any]]:
        engines: list[dict[str, Any]] = self.job.report["engines"]
        return engines


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        found.look(1280)
        yield found


def load(browser: Browser, job: Job, name: str) -> Seen:
    for kind in ("browser", "performance"):
        browser.log(kind)
    browser.open(job.folder / name)
    browser.look(1280)
    sent = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    requests = [event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    return Seen(browser, job, browser.log("browser"), requests)


@pytest.fixture(scope="module", params=["report.html", "comparison.html"])
def seen(request: pytest.FixtureRequest, browser: Browser, job: Job) -> Seen:
    if request.param == "comparison.html":
        run = read_older(job.folder / "report.json")
        write_comparison(compare_runs(run, run), job.folder)
    return load(browser, job, request.param)


def texts(seen: Seen, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(element => element.textContent)"
    found: list[str] = seen.browser.run(script, selector)
    return found


def test_it_loads_without_a_word_on_the_console_and_asks_for_nothing_but_itself(seen: Seen) -> None:
    assert seen.console == []
    assert len([url for url in seen.requests if url.startswith("file://")]) == 1
    assert [url for url in seen.requests if not url.startswith(("file://", "data:"))] == []


@REPORT
def test_every_plot_is_drawn_with_all_its_engines(seen: Seen) -> None:
    plots = seen.browser.run(PLOTS)
    engines = len(seen.engines)
    least = dict.fromkeys(("latency", "throughput", "load-p50", "load-p99", "tradeoff"), engines)
    least |= {"parts": 10, "calibration": 2, "variants": 2}
    assert set(plots) == {f"plot-{name}" for name in least}
    for name, traces in least.items():
        found = plots[f"plot-{name}"]
        assert found["traces"] >= traces, name
        assert found["drawn"] >= (traces if name != "load-p99" else 1), (
            f"{name}: only one engine was asked often enough"
        )
        assert 0 <= found["spare"] < 60, name
        assert found["high"] > 150, name
    assert sorted(texts(seen, "#plot-tradeoff .annotation")) == ["int8-dynamic", "torch eager", "triton http"]


def test_the_contents_lead_to_every_section(seen: Seen) -> None:
    seen.browser.run("document.documentElement.style.scrollBehavior = 'auto'")
    sections = seen.browser.run("return [...document.querySelectorAll('section')].map(section => section.id)")
    for name in sections:
        top = seen.browser.run(
            "scrollTo(0, 0); document.querySelector(`nav a[href='#${arguments[0]}']`).click();"
            "return document.getElementById(arguments[0]).querySelector('h2').getBoundingClientRect().top",
            name,
        )
        bar = seen.browser.run("return document.querySelector('nav').getBoundingClientRect().bottom")
        assert bar <= top < 900, name
    assert len(sections) >= 4
    seen.browser.run("scrollTo(0, 0)")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window_cut_off_or_on_top_of_another(seen: Seen, width: int) -> None:
    seen.browser.look(width)
    assert seen.browser.run("return document.documentElement.scrollWidth") <= width
    assert seen.browser.run(TOO_WIDE) == []
    assert seen.browser.run(CUT_OFF) == []
    assert seen.browser.run(TOUCHING) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_can_be_read(seen: Seen, scheme: str) -> None:
    seen.browser.look(1280, scheme)
    found = seen.browser.run(CONTRAST)
    assert len(found) > 60
    assert [entry for entry in found if entry[0] < 4.5] == []
    paper = seen.browser.run("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 22, 26)"}[scheme]


@REPORT
def test_the_tables_hold_the_numbers_of_the_report(seen: Seen) -> None:
    shown = seen.browser.run(CELLS, "engines")
    for row, engine in zip(shown, seen.engines, strict=True):
        assert row[0] == engine["p50_ms"]
        assert set(engine["throughput_per_s"].values()) <= set(row)
        assert {engine["metric"][end] for end in ("value", "low", "high")} <= set(row)
    waits = seen.browser.run(CELLS, "parts")
    for row, part in zip(waits, seen.engines[2]["parts"].values(), strict=True):
        assert row[0] == part["outside_ms"]
        assert row[-2:] == [part["all_ms"], part["steps"][-1]["rows_per_run"]]
    counts = seen.browser.run(CELLS, "confusion")
    assert counts == seen.job.report["reported"]["confusion"]
    assert [row[0] for row in seen.browser.run(CELLS, "calibration")] == [engine["ece"] for engine in seen.engines]


@REPORT
def test_what_rows_and_labels_say_is_text_to_the_browser(seen: Seen) -> None:
    labels = texts(seen, "#classes th[scope=row]")
    assert labels == seen.job.report["labels"]
    assert HOSTILE in labels
