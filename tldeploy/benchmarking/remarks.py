"""What has to be said beside the tables of a report, one sentence each: what its figures can and cannot carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tldeploy.benchmarking.scenarios import generator_words
from tldeploy.tables import aligned

Report = dict[str, Any]

MOST_OPERATORS = 5  # named of a provider, in a remark or a table


def remarks(report: Report) -> list[str]:
    """The noise floor and what lies inside it, engines that were not warm or not whole on their provider, and load that
    was not the server's limit."""
    found = [noise(report["noise"])]
    for engine in report["engines"]:
        found += [*_inside_the_noise(engine), *_not_warm(engine), *_placed(engine)]
    return [*found, *_generators(report["engines"]), energy(report["energy"])]


def noise(found: dict[str, Any]) -> str:
    """What an engine measured against itself gave."""
    ratio = found["ratio"]
    return (
        f"noise: {found['engine']} against itself, over {found['rounds']} rounds, is {ratio['value']:.3f} "
        f"[{ratio['low']:.3f}, {ratio['high']:.3f}] times as fast: differences below {found['floor']:.1%} are none"
    )


def energy(found: dict[str, Any]) -> str:
    """What counted it, or why nothing did."""
    if not found["counted"]:
        return f"energy: this machine does not tell it: {found['why_not']}"
    without = f"; of the processor it does not tell: {found['why_not']}" if found["why_not"] else ""
    return f"energy: counted by {', '.join(found['counted'])}, all that the machine drew meanwhile included{without}"


def render_server(report: Report) -> str:
    """The Server scenario as a table for a terminal; empty where no engine is a server."""
    head = ["requests at random", "rate/s", "answered/s", "p50 ms", "p99 ms [95 %]", "over", "bound kept"]
    rows = [
        [
            engine["name"],
            f"{trial['rate_per_s']:.1f}",
            f"{trial['answered_per_s']:.1f}",
            _ms(trial["p50_ms"]),
            _with_interval(trial),
            f"{trial['over_bound']} of {trial['samples'] + trial['dropped']}",
            "yes" if trial["keeps_bound"] else "no",
        ]
        for engine in report["engines"]
        for trial in (engine["server"] or {"trials": []})["trials"]
    ]
    if not rows:
        return ""
    best = [
        f"{engine['name']}: p99 within {engine['server']['p99_bound_ms']:g} ms up to {_rate(engine['server'])}"
        for engine in report["engines"]
        if engine["server"]
    ]
    return "\n".join([aligned(head, rows), *best])


def _rate(server: dict[str, Any]) -> str:
    rate = server["highest_rate_per_s"]
    if rate is None:
        return "no rate that was tried"
    trial = next(trial for trial in server["trials"] if trial["rate_per_s"] == rate)
    doubt = "" if trial["p99_ms"] else f"; {trial['samples']} requests are too few to be sure of it"
    return f"{rate:.1f} requests a second{doubt}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _with_interval(figures: dict[str, Any]) -> str:
    if figures["p99_ms"] is None:
        return f"needs {figures['needed']['p99_ms']}"
    low, high = figures["p99_ms_interval"]
    return f"{_ms(figures['p99_ms'])} [{_ms(low)}, {'?' if high is None else _ms(high)}]"


def _inside_the_noise(engine: dict[str, Any]) -> Iterator[str]:
    verdict, gain = engine["verdict"], engine["speedup"]
    if verdict is None or verdict["differ"] or gain["low"] == gain["high"] == 1:
        return
    more = verdict["more_rounds"]
    needs = "more rounds than it is worth" if more is None else f"about {more:,} more rounds"
    yield f"{engine['name']}: {gain['value']:.3f} times PyTorch is inside the noise; to tell needs {needs}"


def _not_warm(engine: dict[str, Any]) -> Iterator[str]:
    warm = engine["warm_up"]
    if not warm["settled"]:
        yield (
            f"{engine['name']}: still getting faster after {warm['requests']} requests of warm-up "
            f"({warm['seconds']:.1f} s): its first figures are too slow"
        )


def _placed(engine: dict[str, Any]) -> Iterator[str]:
    """What of a graph is not run by the provider that runs the most of it, which is no computation; or that its server
    does not tell."""
    found: list[dict[str, Any]] = engine.get("placement") or []
    if not found and engine["provider"].startswith("Triton"):
        yield f"{engine['name']}: its server does not tell which execution provider runs the graph's nodes"
    for rest in found[1:]:
        share = "" if rest["share"] is None else f" and {rest['share']:.1%} of the host's time"
        some = ", ".join(list(rest["operators"])[:MOST_OPERATORS])
        more = ", …" if len(rest["operators"]) > MOST_OPERATORS else ""
        nodes = sum(each["nodes"] for each in found)
        yield (
            f"{engine['name']}: {rest['nodes']} of {nodes} nodes{share} are on {rest['provider']}, "
            f"not on {found[0]['provider']}: {some}{more}"
        )


def _generators(engines: list[dict[str, Any]]) -> Iterator[str]:
    asked = [engine for engine in engines if any(level["generator"] for level in engine["closed_loop"].values())]
    behind = [said for engine in asked if (said := generator_words(engine["name"], engine))]
    if asked and not behind:
        names = ", ".join(engine["name"] for engine in asked)
        yield f"load on {names} came from a process of its own, which kept up with it"
    yield from behind
