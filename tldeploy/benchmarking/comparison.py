"""Two runs side by side: of every engine that both have, what changed, and whether that is more than chance.

Each figure is judged as the regression gate does it (gate.py), at 95 %: p50 and p99 of single requests as ratios, which
must also be beyond the noise floors of both runs; rows a second in the closed loop as a ratio; the metric in points.
The metric is compared row by row where both runs answered the same rows and kept their samples, else by its intervals.
Timings of two kinds of machine are shown and not judged.

Up to one figure in twenty that did not change may seem to have: the more engines, the more of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tldeploy.benchmarking.gate import PERCENTILES, Judged, judge, machines_differ, parse
from tldeploy.benchmarking.older import Older, paired_drop
from tldeploy.benchmarking.report import Report, flat, reported

Verdict = Literal["better", "worse", "not shown to differ", "not judged"]
# The gate's conditions under which nothing may get worse at all.
CONDITIONS = {"p50": "p50+0%", "p99": "p99+0%", "throughput": "throughput-0%", "accuracy": "accuracy-0pt"}
COMPARISON_HTML, COMPARISON_MARKDOWN = "comparison.html", "comparison.md"


@dataclass(frozen=True)
class Change:
    """One figure of one engine in both runs.

    of: p50, p99, throughput or accuracy. unit: of `value`, the new figure over the old one (`times`), or their
    difference in `points`. interval: its ends at 95 %, None for one that is not known. floor: what a ratio must be
    beyond, as a share; None where no noise floor applies. paired: row by row. clients: of a throughput.
    """

    engine: str
    of: str
    old: float
    new: float
    unit: Literal["times", "points"]
    value: float
    interval: tuple[float | None, float | None]
    floor: float | None
    verdict: Verdict
    paired: bool = False
    clients: str | None = None


@dataclass(frozen=True)
class Difference:
    """A setting, version or decision that the runs do not share; None where a run lacks it."""

    of: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Comparison:
    """old, new: the reports. same_rows: whether both answered the same ones, None where one does not say. machine: what
    of the machines differs, in words, so that timings are not judged; None where they may be."""

    old: Report
    new: Report
    same_rows: bool | None
    machine: str | None
    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    added: tuple[str, ...]
    environment: tuple[Difference, ...]
    decisions: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        said = {name: getattr(self, name) for name in ("same_rows", "machine", "gone", "added")}
        lists = {name: [asdict(one) for one in getattr(self, name)] for name in ("changes", "environment", "decisions")}
        return {**{name: list(one) if isinstance(one, tuple) else one for name, one in said.items()}, **lists}


def compare_runs(old: Older, new: Older, *, any_machine: bool = False) -> Comparison:
    """any_machine: judge timings although the machines differ."""
    before, after = ([engine["name"] for engine in run.report["engines"]] for run in (old, new))
    machine = None if any_machine else machines_differ(old.report, new.report)
    hashes = [run.report.get("rows_sha256") for run in (old, new)]
    return Comparison(
        old.report,
        new.report,
        same_rows=None if None in hashes else hashes[0] == hashes[1],
        machine=machine,
        changes=tuple(change for name in before if name in after for change in _changes(name, old, new, machine)),
        gone=tuple(name for name in before if name not in after),
        added=tuple(name for name in after if name not in before),
        environment=_differences(*(dict(flat(run.report["environment"])) for run in (old, new))),
        decisions=_differences(*(_decided(run.report) for run in (old, new))),
    )


def _changes(name: str, old: Older, new: Older, machine: str | None) -> list[Change]:
    """Of one engine, those figures that both runs have."""
    runs = [{**run.report, "reported": {"engine": name}} for run in (old, new)]
    before, after = (reported(run) for run in runs)
    floor = max((run["noise"]["floor"] for run in runs if "noise" in run), default=None)
    paired = paired_drop(old, new, name)
    found = []
    for of, condition in CONDITIONS.items():
        if (figures := _figures(of, before, after)) is None:
            continue
        (judged,) = judge(parse(condition), runs[0], runs[1], paired, any_machine=True)
        is_timing = of != "accuracy"
        found.append(
            Change(
                engine=name,
                of=of,
                old=figures[0],
                new=figures[1],
                unit="times" if is_timing else "points",
                **_size(of, judged),
                floor=floor if of in PERCENTILES else None,
                verdict="not judged" if is_timing and machine else _verdict(of, judged, floor or 0),
                paired=paired is not None and not is_timing,
                clients=_clients(before, after) if of == "throughput" else None,
            )
        )
    return found


def _figures(of: str, before: dict[str, Any], after: dict[str, Any]) -> tuple[float, float] | None:
    """What is compared, of both runs; None where one lacks it."""
    if of == "accuracy":
        same = before["metric"]["name"] == after["metric"]["name"]
        return (before["metric"]["value"], after["metric"]["value"]) if same else None
    if of == "throughput":
        clients = _clients(before, after)
        return None if clients is None else (before["throughput_per_s"][clients], after["throughput_per_s"][clients])
    old, new = (engine.get(PERCENTILES[of]) for engine in (before, after))
    return None if old is None or new is None else (old, new)


def _clients(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The number of clients that the gate takes: the best of the older run's that both have."""
    both = [clients for clients in before["closed_loop"] if clients in after["closed_loop"]]
    return max(both, key=lambda clients: float(before["throughput_per_s"][clients]), default=None)


def _size(of: str, judged: Judged) -> dict[str, Any]:
    """The change as `value` and `interval`, out of how much worse the gate found it."""
    worse = judged.change
    assert worse is not None
    if of in PERCENTILES:
        return {"value": 1 + worse.value, "interval": _known(1 + worse.low, 1 + worse.high, 0)}
    if of == "throughput":
        return {"value": 1 - worse.value, "interval": _known(1 - worse.high, 1 - worse.low, 0)}
    return {"value": -worse.value, "interval": _known(-worse.high, -worse.low)}


def _known(low: float, high: float, least: float = -math.inf) -> tuple[float | None, float | None]:
    """least: a low end that is no higher is not known either."""
    return low if low > least and math.isfinite(low) else None, high if math.isfinite(high) else None


def _verdict(of: str, judged: Judged, floor: float) -> Verdict:
    assert judged.change is not None
    if judged.state == "failed":
        return "worse"
    least = floor / (1 + floor) if of in PERCENTILES else 0.0
    return "better" if judged.change.high < 0 and -judged.change.value > least else "not shown to differ"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[Difference, ...]:
    names = dict.fromkeys([*old, *new])
    return tuple(Difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


def _decided(report: Report) -> dict[str, Any]:
    return {f"{choice['stage']}: {choice['about']}": choice["value"] for choice in report["decisions"]}
