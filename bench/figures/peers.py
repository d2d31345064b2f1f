"""tldeploy against what one would write otherwise, out of peers.json: who is ahead, and what each costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tldeploy.measuring.statistics import Estimate, fewest, ratio_of_rounds

from .table import interval, listed, markdown, spread

OURS = "tldeploy"
AGAIN, THEIRS = "tldeploy again", "perf_analyzer"
LEVELS = ("1", "4", "16")
UNKNOWN, QUALITY = "not recorded", "weighted F1"
# What a peer costs when it runs alone, in words, and how it is read; less is better.
COSTS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "start s": lambda peer: peer["start_s"],
    "RAM MB": lambda peer: peer["memory_mb"],
    "on disk MB": lambda peer: sum(peer["disk_mb"].values()),
}


def verdict(ratio: Estimate) -> str:
    return "ahead" if ratio.low > 1 else "behind" if ratio.high < 1 else "level"


def percentile(rounds_ms: Sequence[Sequence[float]], share: float) -> float | None:
    """The nearest-rank one of all rounds together, in ms; None where they are too few for it."""
    all_ms = np.concatenate([np.array(each) for each in rounds_ms])
    if len(all_ms) < fewest(share):
        return None
    return float(np.quantile(all_ms, share, method="inverted_cdf"))


def page(report: Mapping[str, Any]) -> str:
    """The whole of peers.md."""
    machine, results = report["environment"], report["results"]
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, which the clients share. Interleaved rounds of "
        f"{report['seconds']:g} s. Ratios say how many times as many rows a second we answer, with their 95 % "
        "interval; ahead or behind where it does not hold 1. A percentile of too few requests is left out."
    ]
    for subject in ("text", "images"):
        if subject in results:
            parts += _subject(subject, results[subject], results.get("alone", {}).get(subject, {}))
    if "generator" in results:
        parts.append(generators(results["generator"]))
    return "\n\n".join(parts) + "\n"


def _subject(subject: str, found: Mapping[str, Any], alone: Mapping[str, Any]) -> list[str]:
    ours, *exact = _ours(found)
    shown = [speed(subject, found, list(found), ours)]
    if exact:
        same = [name for name in found if name.endswith("fp32")]
        shown.append(speed(f"{subject}, all in fp32", found, same, exact[0]))
    return [*shown, costs(subject, alone)] if alone else shown


def speed(title: str, found: Mapping[str, Any], names: Sequence[str], ours: str) -> str:
    """A line a peer, ours first; `ours` is what the others are held against."""
    lines = []
    for name in names:
        load = found[name]
        waits = [_shown(percentile(load["1"]["ms"], share), ".1f") for share in (0.5, 0.99)]
        most = _shown(percentile(load["16"]["ms"], 0.99), ".0f") if "16" in load else ""
        rates = [f"{np.median(load[level]['rate']):.0f}" if level in load else "" for level in LEVELS]
        ratios = [
            _judged(found[ours][level]["rate"], load[level]["rate"]) if level in load and name != ours else ""
            for level in LEVELS
        ]
        lines.append([name, *waits, most, *rates, *ratios])
    rounds = len(found[ours]["1"]["rate"])
    head = [
        f"{title}, {rounds} rounds",
        "p50 ms",
        "p99 ms",
        "p99 ms at 16",
        *(f"rows/s at {level}" for level in LEVELS),
    ]
    return markdown([*head, *(f"ours, times it at {level}" for level in LEVELS)], lines)


def costs(subject: str, alone: Mapping[str, Any]) -> str:
    lines = []
    for name, peer in alone.items():
        disk, metric = peer["disk_mb"], peer.get("metric")
        lines.append(
            [
                name,
                f"{peer['start_s']:.1f}",
                f"{peer['memory_mb']:.0f}",
                *(_shown(disk.get(part), ".0f") for part in ("model", "packages", "tritonserver")),
                _shown(sum(disk.values()), ".0f"),
                f"{peer['off_torch']:.0e}",
                interval(metric) if metric else "",
            ]
        )
    head = [f"{subject}, alone", "start s", "RAM MB", "model MB", "packages MB", "tritonserver MB", "on disk MB"]
    return markdown([*head, "off PyTorch", "weighted F1, held out"], lines)


def agree(theirs: Sequence[float], ours: Sequence[float], again: Sequence[float]) -> bool:
    """Whether rates differ by no more than noise: the interval of their ratio holds 1, or the ratio is no farther from
    it than ours against itself may be."""
    other, noise = ratio_of_rounds(theirs, ours), ratio_of_rounds(again, ours)
    farthest = max(abs(noise.low - 1), abs(noise.high - 1))
    return other.low <= 1 <= other.high or abs(other.value - 1) <= farthest


def generators(found: Mapping[str, Any]) -> str:
    """Our load generator and Triton's own on one server, by protocol and number of clients."""
    lines = []
    for protocol, levels in found.items():
        for (clients, kept), name in itertools.product(levels.items(), (OURS, AGAIN, THEIRS)):
            taken, ours = kept[name]["rate"], kept[OURS]["rate"]
            waits = [_shown(percentile(kept[name]["ms"], share), ".1f") for share in (0.5, 0.99)]
            same = "yes" if agree(taken, ours, kept[AGAIN]["rate"]) else "no"
            against = "" if name == OURS else spread(ratio_of_rounds(taken, ours))
            compared = [against, same if name == THEIRS else ""]
            lines.append([f"{protocol}, {clients}, {name}", f"{np.median(taken):.1f}", *waits, *compared])
    head = ["protocol, clients, generator", "rows/s", "p50 ms", "p99 ms", "rate, times tldeploy's", "within noise"]
    return markdown(head, lines)


def summary(report: Mapping[str, Any], subject: str) -> str:
    """bench/README.md's table of a subject: what we serve by default against every peer, and what each costs alone."""
    found, alone = report["results"][subject], report["results"].get("alone", {}).get(subject, {})
    ours = _ours(found)[0]
    costs = [*COSTS, *([QUALITY] if any(peer.get("metric") for peer in alone.values()) else [])]
    rows = []
    for name in _peers(found):
        load, cost = found[name], alone.get(name)
        times = [spread(_ratio(found, ours, name, level)) if level in load else "" for level in LEVELS]
        rows.append([name, *times, *(_cost(what, cost) for what in costs)])
    of_ours = [f"{what}, ours {_cost(what, alone.get(ours))}" for what in costs]
    head = [f"{ours}, against", *(_clients(level) for level in LEVELS), *of_ours]
    about = f"{subject.capitalize()}, {len(found[ours]['1']['rate'])} interleaved rounds, times theirs:"
    return f"{about}\n\n{markdown(head, rows)}\n"


def standing(report: Mapping[str, Any]) -> str:
    """Whom we are ahead of, level with and behind, in speed and in each cost, in words."""
    lines = []
    for subject in (name for name in ("text", "images") if name in report["results"]):
        found, alone = report["results"][subject], report["results"].get("alone", {}).get(subject, {})
        for ours in _ours(found):
            exact = ours.endswith("fp32")
            against = [name for name in _peers(found) if name.endswith("fp32") or not exact]
            lines.append(
                f"- {subject}, *{ours}*{', at equal answers' if exact else ''}: {_speeds(found, ours, against)}"
            )
        ours = _ours(found)[0]
        for what, read in COSTS.items():
            if ours not in alone:
                lines.append(f"- {subject}, {what}: {UNKNOWN}.")
                continue
            cheap = [name for name in _peers(alone) if read(alone[name]) < read(alone[ours])]
            less = [f"*{name}* ({_number(read(alone[name]))})" for name in cheap]
            who = listed(less) if less else "none"
            lines.append(f"- {subject}, {what}, *{ours}* ({_number(read(alone[ours]))}): less for {who}.")
    return "\n".join(lines) + "\n"


def _speeds(found: Mapping[str, Any], ours: str, against: Sequence[str]) -> str:
    pairs = [(name, level) for name in against for level in LEVELS if level in found[name]]
    ratios = {pair: _ratio(found, ours, *pair) for pair in pairs}
    ahead = [ratio.value for ratio in ratios.values() if verdict(ratio) == "ahead"]
    by = f", {min(ahead):.1f} to {max(ahead):.1f} times as fast" if ahead else ""
    told = [f"ahead in {len(ahead)} of {len(pairs)} comparisons{by}"]
    for kind in ("level", "behind"):
        those = [
            f"*{name}* with {_clients(level)} ({spread(ratio)})"
            for (name, level), ratio in ratios.items()
            if verdict(ratio) == kind
        ]
        told.append(f"{'level with' if kind == 'level' else 'behind'} {listed(those) if those else 'none'}")
    return "; ".join(told) + "."


def generator_summary(report: Mapping[str, Any]) -> str:
    """bench/README.md's table: perf_analyzer's rate, and ours measured again, both times that of ours."""
    rows, agreeing, apart = [], [], []
    for protocol, levels in report["results"]["generator"].items():
        for clients, kept in levels.items():
            ours, again, theirs = (kept[name]["rate"] for name in (OURS, AGAIN, THEIRS))
            times = [spread(ratio_of_rounds(rates, ours)) for rates in (theirs, again)]
            rows.append([f"{protocol}, {clients}", *times])
            agreeing.append(agree(theirs, ours, again))
            apart.append(verdict(ratio_of_rounds(again, ours)) != "level")
    rounds = len(next(iter(next(iter(report["results"]["generator"].values())).values()))[OURS]["rate"])
    verdicts = (
        f"By {rounds} rounds {THEIRS} is within noise of ours in {sum(agreeing)} of {len(agreeing)}; ours differs from "
        f"itself by more than its interval in {sum(apart)}."
    )
    return f"{markdown(['protocol, clients', THEIRS, 'ours again'], rows)}\n\n{verdicts}\n"


def _ours(found: Mapping[str, Any]) -> list[str]:
    """What we serve by default, and where it is another graph, the one that answers as PyTorch does."""
    served = [name for name in found if name.startswith(OURS) and not name.endswith("gRPC")]
    return list(dict.fromkeys([served[0], served[-1]]))


def _peers(found: Mapping[str, Any]) -> list[str]:
    return [name for name in found if not name.startswith(OURS)]


def _ratio(found: Mapping[str, Any], ours: str, theirs: str, level: str) -> Estimate:
    return ratio_of_rounds(found[ours][level]["rate"], found[theirs][level]["rate"])


def _cost(what: str, peer: Mapping[str, Any] | None) -> str:
    if peer is None:
        return UNKNOWN
    return f"{peer['metric']['value']:.3f}" if what == QUALITY else _number(COSTS[what](peer))


def _clients(level: str) -> str:
    return "1 client" if level == "1" else f"{level} clients"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def _judged(ours: Sequence[float], theirs: Sequence[float]) -> str:
    ratio = ratio_of_rounds(ours, theirs)
    return f"{spread(ratio)} {verdict(ratio)}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
