"""What peers.md shows of peers.json: by subject, how fast each is and whether we are ahead of it, and what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.readme import interval, markdown, spread
from tldeploy.measuring.statistics import Estimate, fewest, ratio_of_rounds

OURS, IN_PROCESS = "tldeploy", "in-process"
AGAIN, THEIRS = "tldeploy again", "perf_analyzer"
LEVELS = ("1", "4", "16")


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
    ours = [name for name in found if name.startswith(OURS) and not name.endswith("gRPC")]
    shown = [speed(subject, found, list(found), ours[0])]
    if ours[-1] != ours[0]:
        exact = [name for name in found if name.endswith("fp32")]
        shown.append(speed(f"{subject}, all in fp32", found, exact, ours[-1]))
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
            against = "" if name == OURS else spread(ratio_of_rounds(taken, ours).as_json())
            compared = [against, same if name == THEIRS else ""]
            lines.append([f"{protocol}, {clients}, {name}", f"{np.median(taken):.1f}", *waits, *compared])
    head = ["protocol, clients, generator", "rows/s", "p50 ms", "p99 ms", "rate, times tldeploy's", "within noise"]
    return markdown(head, lines)


def _judged(ours: Sequence[float], theirs: Sequence[float]) -> str:
    ratio = ratio_of_rounds(ours, theirs)
    return f"{spread(ratio.as_json())} {verdict(ratio)}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
