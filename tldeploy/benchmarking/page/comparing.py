"""comparison.html and comparison.md: two runs side by side, for a person."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from tldeploy.artifacts import write_file
from tldeploy.benchmarking.comparison import (
    COMPARISON_HTML,
    COMPARISON_MARKDOWN,
    Change,
    Comparison,
    Difference,
    compare_runs,
)
from tldeploy.benchmarking.older import read_older
from tldeploy.benchmarking.page.drawing import HUES, as_html, figure, short
from tldeploy.benchmarking.page.engine_tables import clients_words
from tldeploy.benchmarking.page.markup import EMPTY, Cell, Table, bullets, markdown_bullets, number, plain, words
from tldeploy.benchmarking.page.rendering import fill, when
from tldeploy.benchmarking.report import Report, metric_words, milliseconds, per_second
from tldeploy.errors import UsageError

RATIOS = (0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.25, 2, 3, 5, 10)
_INKS = {"better": "right", "worse": "wrong"}
_COLOURS = {"p50": HUES["onnxruntime"][1], "p99": HUES["triton"][0], "throughput": HUES["openvino"][0]}


def compare(old: str | Path, new: str | Path, out: str | Path = ".", any_machine: bool = False) -> Comparison:
    """Two reports (report.json) side by side; comparison.html and comparison.md are written below `out`.

    any_machine: judge timings although the machines differ. Raises ArtifactError for what is no report.
    """
    compared = compare_runs(read_older(Path(old)), read_older(Path(new)), any_machine=any_machine)
    write_comparison(compared, Path(out))
    return compared


def write_comparison(found: Comparison, folder: Path) -> None:
    """Raises UsageError where a file is in the folder's place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            "write the comparison", f"{folder} is no folder", "name a folder, or leave --out out"
        ) from error
    write_file(folder / COMPARISON_HTML, render_comparison(found))
    write_file(folder / COMPARISON_MARKDOWN, render_comparison_markdown(found))


def render_comparison(found: Comparison) -> str:
    """The whole of comparison.html."""
    return fill(
        "comparison.html",
        {name: table.as_html() or "<p>None.</p>" for name, table in _tables(found).items()},
        {name: escape(text) for name, text in _words(found).items()},
        {"remarks": bullets(remarks(found)), "plot_ratios": as_html({"ratios": _ratios(found)})["ratios"]},
    )


def render_comparison_markdown(found: Comparison) -> str:
    """The whole of comparison.md."""
    tables = {name: table.as_markdown() or "None." for name, table in _tables(found).items()}
    said = {name: plain(text) for name, text in _words(found).items()}
    return fill("comparison.md", tables, {"remarks": markdown_bullets(remarks(found)), **said})


def verdict(found: Comparison) -> str:
    """What changed, in a sentence."""
    judged = [change for change in found.changes if change.verdict != "not judged"]
    worse, better = (sum(change.verdict == said for change in judged) for said in ("worse", "better"))
    rest = len(judged) - worse - better
    return f"Of {len(judged)} figures {worse} got worse, {better} got better, {rest} are not shown to differ"


def remarks(found: Comparison) -> list[str]:
    """What the figures rest on, one sentence each."""
    said = [_rows(found)]
    if found.machine:
        said.append(f"timings of two machines are not judged: {found.machine}")
    floors = [
        f"{report['noise']['floor']:.1%} {which}"
        for which, report in (("then", found.old), ("now", found.new))
        if "noise" in report
    ]
    if floors:
        said.append(f"noise floor: {', '.join(floors)}; of latencies, smaller changes than the larger one are none")
    said += [f"only {which} run has {', '.join(names)}" for which, names in _alone(found) if names]
    said.append("at 95 %, up to one figure in twenty that did not change may seem to have")
    return said


def changes(found: Comparison) -> Table:
    """A row for each figure of each engine."""
    rows = [
        [
            words(change.engine, _of(change, found.new)),
            number(change.old, _show(change)),
            number(change.new, _show(change)),
            _size(change),
            number(change.floor, ".1%"),
            _verdict(change),
        ]
        for change in found.changes
    ]
    return Table("changes", ["engine", "then", "now", "change [95 %]", "noise floor", ""], rows)


def _tables(found: Comparison) -> dict[str, Table]:
    return {
        "changes": changes(found),
        "environment": _differing("environment", found.environment),
        "decisions": _differing("decisions", found.decisions),
        "runs": _runs(found),
    }


def _differing(name: str, differences: tuple[Difference, ...]) -> Table:
    rows = [[words(one.of), *map(_found, (one.old, one.new))] for one in differences]
    return Table(f"differing-{name}", ["what", "then", "now"], rows)


def _found(value: Any) -> Cell:
    return words("–" if value is None else value)


def _runs(found: Comparison) -> Table:
    runs = (found.old, found.new)
    lines: dict[str, list[str]] = {
        "model": [report["name"] for report in runs],
        "measured": [when(report["created"]) for report in runs],
        "held-out rows": [f"{report['rows']:,}" for report in runs],
        "chosen variant": [report["chosen"]["variant"] for report in runs],
        "CPU": [report["environment"]["cpu"] for report in runs],
        "cores": [str(report["environment"]["cores"]) for report in runs],
    }
    return Table("runs", ["", "then", "now"], [[words(name), *map(words, values)] for name, values in lines.items()])


def _words(found: Comparison) -> dict[str, str]:
    names = list(dict.fromkeys(report["name"] for report in (found.old, found.new)))
    return {
        "name": " and ".join(names),
        "verdict": verdict(found),
        "old": when(found.old["created"]),
        "new": when(found.new["created"]),
    }


def _rows(found: Comparison) -> str:
    if any(change.paired for change in found.changes):
        return "both runs answered the same rows; the metric is compared row by row"
    if not found.changes:
        return "the runs have no engine in common"
    why = {
        True: "one of them kept no samples (samples.npz) beside its report",
        False: "the runs answered different rows",
        None: "one of the reports does not say which rows it is of",
    }[found.same_rows]
    return f"the metric is compared by its intervals only, which is blunt, not row by row: {why}"


def _alone(found: Comparison) -> list[tuple[str, tuple[str, ...]]]:
    return [("the older", found.gone), ("the newer", found.added)]


def _of(change: Change, report: Report) -> str:
    if change.of == "accuracy":
        return metric_words(report["engines"][0]["metric"]["name"])
    return f"rows/s, {clients_words(change.clients)}" if change.clients else f"{change.of} ms"


def _show(change: Change) -> Any:
    return {"accuracy": ".3f", "throughput": per_second}.get(change.of, milliseconds)


def _size(change: Change) -> Cell:
    """× 1.05 or +0.3 points, with its interval."""
    show = "+.2f" if change.unit == "points" else ".3f"
    value = number(change.value, show)
    ends = [number(end, show) if end is not None else words("?") for end in change.interval]
    before, after = ("", " points") if change.unit == "points" else ("× ", "")
    return Cell(
        f"{before}{value.markup}{after} <small>{ends[0].markup} – {ends[1].markup}</small>",
        f"{before}{value.text}{after} [{ends[0].text}, {ends[1].text}]",
        is_number=True,
    )


def _verdict(change: Change) -> Cell:
    said = words(change.verdict)
    if change.verdict not in _INKS:
        return Cell(f"<span>{said.markup}</span>", said.text) if said.text else EMPTY
    return Cell(f'<b class="{_INKS[change.verdict]}">{said.markup}</b>', said.text)


def _ratios(found: Comparison) -> Any:
    """How many times as good as before, engine by engine: right of 1 is better, whichever the figure."""
    engines = list(dict.fromkeys(change.engine for change in found.changes))
    made = figure(
        "times as good",
        "",
        height=110 + 62 * len(engines),
        x={"type": "log", "tickvals": RATIOS, "ticktext": [f"{ratio:g}" for ratio in RATIOS], "tickangle": 0},
        y={
            "range": [len(engines) - 0.5, -0.5],
            "tickvals": list(range(len(engines))),
            "ticktext": list(map(short, engines)),
            "showgrid": False,
        },
    )
    made.add_vline(x=1, line={"color": HUES["torch"][0], "width": 1.4, "dash": "dot"})
    for at, (of, colour) in enumerate(_COLOURS.items()):
        if not (chosen := [change for change in found.changes if change.of == of]):
            continue
        ends = [_as_gain(change) for change in chosen]
        made.add_scatter(
            x=[value for value, _, _ in ends],
            y=[engines.index(change.engine) + 0.24 * (at - 1) for change in chosen],
            mode="markers",
            name="rows a second" if of == "throughput" else of,
            marker={
                "color": colour,
                "size": 9,
                "symbol": ["circle" if change.verdict in _INKS else "circle-open" for change in chosen],
            },
            error_x={
                "array": [high - value for value, _, high in ends],
                "arrayminus": [value - low for value, low, _ in ends],
                "thickness": 1.6,
                "width": 0,
            },
            hovertemplate=f"{of}: × %{{x:.3f}}",
        )
    return made


def _as_gain(change: Change) -> tuple[float, float, float]:
    """The ratio with its ends, turned so that more is better; an unknown end is as far as the value."""
    low, high = (change.value if end is None else end for end in change.interval)
    if change.of == "throughput":
        return change.value, low, high
    return 1 / change.value, 1 / high, 1 / low if low > 0 else 1 / change.value
