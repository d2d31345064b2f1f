"""What prose says of records that have no table in the READMEs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def families(found: Mapping[str, Any]) -> list[str]:
    outcomes = [entry["outcome"] for entry in found.values()]
    passed, unmade = (sum(outcome.startswith(kind) for outcome in outcomes) for kind in ("ok", "not built"))
    return [
        f"Of {len(found)} architectures tried, {passed} are exported as PyTorch answers, "
        f"{len(found) - passed - unmade} are refused by the exporter or by parity, and {unmade} could not be made"
    ]


def conformance(report: Mapping[str, Any]) -> list[str]:
    counts = report["counts"]
    otherwise = counts["onnxruntime itself answers otherwise than onnx's reference"]
    return [
        f"Of onnx's {len(report['results']):,} operator tests it answers {counts['right']:,} right",
        f"{otherwise} that it answers otherwise by itself, to the bit, and {counts['a random draw']} random draws",
    ]


def publishing(report: Mapping[str, Any]) -> list[str]:
    busy, killed, serving = (report["parts"][part] for part in ("busy", "killed", "killed-serving"))
    assert not any(part["lost"] or part.get("wrong") or part.get("faults") for part in report["parts"].values())
    return [
        f"{busy['requests']:,} requests",
        f"After each of {killed['killed'] + serving['killed']} kills",
        f"after all of the {serving['killed']} that it saw",
        f"the {killed['fresh servers'] + serving['fresh servers']} fresh servers",
    ]


def fuzz(report: Mapping[str, Any]) -> list[str]:
    """In README.md."""
    direct, gated = _runs(report)
    assert gated["memory"]["flat"]
    grown, grown_direct = (run["memory"]["slope_mb_per_minute"] for run in (gated, direct))
    return [
        f"In {direct['seconds']:g} seconds of spoilt requests each way no server and no worker died",
        f"({grown:.0f} MB a minute); without it by {grown_direct:.0f} MB a minute",
    ]


def fuzz_memory(report: Mapping[str, Any]) -> list[str]:
    """In bench/README.md."""
    direct, gated = _runs(report)
    assert gated["memory"]["flat"]
    assert not direct["memory"]["flat"]
    middle, last = (gated["memory"][f"{third}_third_mb"] for third in ("middle", "last"))
    from_gb, to_gb = (direct["memory"][f"{third}_third_mb"] / 1000 for third in ("middle", "last"))
    return [
        f"through the gate memory is flat by that rule ({middle:.0f}, then {last:.0f} MB), and directly it is not: it "
        f"rose from {from_gb:.1f} to {to_gb:.1f} GB"
    ]


def _runs(report: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    direct, gated = sorted(report["runs"], key=lambda run: bool(run["has_gate"]))
    for run in (direct, gated):
        assert not any(run[fault] for fault in ("deaths", "workers_lost", "without_answer", "wrong_answers"))
    return direct, gated


def fitting(report: Mapping[str, Any]) -> list[str]:
    found = report["results"]["throughput"]
    chosen = found["chosen"]
    (best,) = (entry for entry in found["candidates"] if entry["settings"] == chosen and "gain" in entry)
    gain = best["gain"]
    numbers = ("no", "one", "two", "three", "four")
    return [
        f"it found {numbers[chosen['instances']]} instances of {numbers[chosen['threads']]} thread, and "
        f"{numbers[chosen['step_instances']]} of the tokenizing step: with {best['clients']} clients "
        f"{gain['value']:.2f} [{gain['low']:.2f}, {gain['high']:.2f}] times as many rows a second"
    ]


def adaptation(tweets: Mapping[str, Any], movies: Mapping[str, Any]) -> list[str]:
    source, kept, oracle = (f"{value:.3f}"[1:] for value in _weighted_f1(tweets, "tweets"))
    share = _closed(tweets, "tweets")
    there, after, limit = (f"{value:.3f}"[1:] for value in _weighted_f1(movies, "movies"))
    return [
        f"source-only has a weighted F1 of {source}, the label-free choice {kept}, and the oracle {oracle}: "
        f"{share:.0f} % of the distance",
        f"went from {there} to {after}, with an oracle of {limit}, {_closed(movies, 'movies'):.0f} % of the distance",
    ]


def _weighted_f1(report: Mapping[str, Any], target: str) -> list[float]:
    """Of source-only, the choice without labels and the oracle: the mean over seeds."""
    runs = [run for run in report["runs"] if run["target"] == target]
    names = [(run["source_only"], run["kept"], "oracle") for run in runs]
    values = [[run["candidates"][name]["test"]["value"] for name in of] for run, of in zip(runs, names, strict=True)]
    return [sum(column) / len(runs) for column in zip(*values, strict=True)]


def _closed(report: Mapping[str, Any], target: str) -> float:
    source, kept, oracle = _weighted_f1(report, target)
    return 100 * (kept - source) / (oracle - source)
