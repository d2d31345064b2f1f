"""What gpu.md shows of gpu.json (bench/gpu_record.py): a table for each request, and of each claim whether it holds.

The limit is the network's operations over the measured rate of a large matrix product, or the bytes of its weights and
of what goes in over the measured rate of copying, whichever takes longer: both are done at the same time at best. A
network that stays in the GPU's cache from one run to the next may be read faster than that.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from tldeploy.measuring.statistics import Estimate, ratio_of_rounds

from .table import interval, markdown, spread

REFERENCE, COMPILED, OURS = "torch fp32", "compile fp16", "onnxruntime fp16"
TIMES_EAGER = 3.0
WEIGHT_BYTES = {"int4-weights": 0.5, "int8-weights": 1, "fp16": 2, "bf16": 2}
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "not measured"
Rounds = Mapping[str, Mapping[str, list[float]]]


def page(record: Mapping[str, Any]) -> str:
    """The whole of gpu.md."""
    parts = [about(record), claims(record["results"])]
    for name, result in record["results"].items():
        parts += subject(name, result)
    return "\n\n".join(parts) + "\n"


def about(record: Mapping[str, Any]) -> str:
    found, results = record["environment"], list(record["results"].values())
    where = ", ".join(gpu["name"] for gpu in found["gpus"]) if record["device"] == "cuda" else f"{found['cpu']}, no GPU"
    words = [where]
    if results and "machine" in results[-1]:
        machine = results[-1]["machine"]
        rates = ", ".join(f"{name} {machine[f'{name}_per_s'] / 1e12:.1f}" for name in ("fp32", "tf32", "fp16", "bf16"))
        words.append(f"copying {machine['bytes_per_s'] / 1e12:.2f} TB/s counted both ways")
        words.append(f"matrix products in TFLOP/s: {rates}")
    counters = record["gpu_counters"]
    told = f" Utilisation and memory of the GPU are not told here: {counters}." if counters else ""
    return (
        f"{'; '.join(words)}. Medians over interleaved rounds; ratios are geometric means within a round with their "
        f"95 % interval. Off: the largest difference to the probabilities of {REFERENCE}.{told}"
    )


def subject(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    for request, measured in result.get("requests", {}).items():
        yield speed(name, request, measured, result)
    if result.get("quality"):
        yield quality(name, result["quality"])
    if "placement" in result:
        yield placement(name, result["placement"])


def speed(name: str, request: str, measured: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    rows, rounds = [], measured["rounds"]
    for engine, took in rounds.items():
        row = [engine]
        for clock in ("wall_ms", "device_ms"):
            if took.get(clock):
                times = spread(ratio_of_rounds(rounds[REFERENCE][clock], took[clock]))
                row += [f"{statistics.median(took[clock]):.3f}", times]
            else:
                row += ["", ""]
        row.append(f"{share_of_limit(engine, request, result):.0%}" if took.get("device_ms") else "")
        busy = measured["busy"].get(engine, {})
        row += [shown(busy.get("utilisation_percent"), ".0f"), shown(busy.get("memory_mb"), ".0f")]
        rows.append([*row, f"{measured['off'][engine]:.0e}"])
    head = [f"{name}, {request}", "ms, host to host", f"times {REFERENCE}", "ms, on the GPU", "times", "of the limit"]
    table = markdown([*head, "GPU %", "GPU MB", "off"], rows)
    return f"{table}{reasons(measured['left_out'])}"


def reasons(left_out: Mapping[str, str]) -> str:
    """Below a table, why engines are not in it."""
    return "".join(f"\n\n{engine}: {reason}" for engine, reason in grouped(left_out).items())


def grouped(left_out: Mapping[str, str]) -> dict[str, str]:
    """Engines with one reason in one line."""
    engines: dict[str, list[str]] = {}
    for engine, reason in left_out.items():
        engines.setdefault(reason, []).append(engine)
    return {", ".join(names): f"not measured: {reason}" for reason, names in engines.items()}


def precision_of(engine: str) -> str:
    """What an engine computes in. Weights of few bits are computed in fp32 here, for the rest of their graph is."""
    return next((name for name in ("tf32", "fp16", "bf16") if name in engine), "fp32")


def limit_ms(engine: str, about: Mapping[str, Any], machine: Mapping[str, float], request: str) -> float:
    """The least that the request could take on the machine; about: the network's `parameters`, and by request its
    `operations` and `input_bytes`. machine: as `measured`."""
    bytes_each = next((size for name, size in WEIGHT_BYTES.items() if name in engine), 4)
    moved = about["parameters"] * bytes_each + about["input_bytes"][request]
    computing = about["operations"][request] / machine[f"{precision_of(engine)}_per_s"]
    return float(1000 * max(computing, moved / machine["bytes_per_s"]))


def share_of_limit(engine: str, request: str, result: Mapping[str, Any]) -> float:
    """1: no faster is possible by what the machine was measured to reach."""
    device_ms = statistics.median(result["requests"][request]["rounds"][engine]["device_ms"])
    return limit_ms(engine, result["about"], result["machine"], request) / device_ms


def quality(name: str, found: Mapping[str, Any]) -> str:
    rows = []
    for engine, scored in found["engines"].items():
        drop = scored["drop"]
        lost = f"{drop['points']:+.2f} [{drop['low']:+.2f}, {drop['high']:+.2f}]"
        within = "yes" if drop["points"] <= found["budget_points"] else "no"
        rows.append([engine, interval(scored["metric"]), lost, within, f"{drop['agreement']:.3f}"])
    head = [f"{name}, {found['rows']} held-out rows", found["metric"], "points lost"]
    table = markdown([*head, f"within {found['budget_points']:g}", f"labels as {REFERENCE}"], rows)
    return f"{table}{reasons(found.get('left_out', {}))}"


def placement(name: str, found: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        [f"onnxruntime {variant}", ", ".join(f"{provider} {share:.1%}" for provider, share in shares.items()) or "-"]
        for variant, shares in found.items()
    ]
    return markdown([name, "share of the host's time"], rows)


def claims(results: Mapping[str, Any]) -> str:
    """Each claim of every subject and shape: whether the record bears it out, and by how much."""
    rows = []
    for name, result in results.items():
        for request, measured in result.get("requests", {}).items():
            rows += [[f"{name}, {request}", *claim] for claim in claimed(request, measured["rounds"], result)]
    return markdown(["claim", "of onnxruntime in fp16", "", "by"], rows)


def claimed(request: str, rounds: Rounds, result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is claimed of a request, whether it holds, and by what: of the fastest way to run our fp16 graph."""
    ours = fastest(rounds, OURS)
    if request.startswith("1 x "):
        words = f"at least {TIMES_EAGER:g} times {REFERENCE}, host to host"
        if ours is None or REFERENCE not in rounds:
            yield words, UNKNOWN, ""
        else:
            times = times_as_fast(rounds, ours, REFERENCE)
            # The whole interval has to be there: what may be less is not borne out.
            yield words, HOLDS if times.low >= TIMES_EAGER else FAILS, f"{ours}: {spread(times)}"
    theirs = fastest(rounds, COMPILED)
    words = f"not behind {COMPILED}, host to host"
    if ours is None or theirs is None:
        yield words, UNKNOWN, ""
    else:
        times = times_as_fast(rounds, ours, theirs)
        place = "ahead of" if times.low > 1 else "behind" if times.high < 1 else "level with"
        yield words, FAILS if times.high < 1 else HOLDS, f"{place} {theirs}: {spread(times)}"
    words = "distance to the limit, on the GPU"
    if ours is None or not rounds[ours].get("device_ms"):
        yield words, UNKNOWN, ""
    else:
        yield words, f"{share_of_limit(ours, request, result):.0%} of it", ours


def fastest(rounds: Rounds, of: str) -> str | None:
    """The engine of that kind with the shortest median, host to host; served ones are another kind."""
    kind = {name: statistics.median(took["wall_ms"]) for name, took in rounds.items() if name.startswith(of)}
    return min(kind, key=lambda name: kind[name]) if kind else None


def times_as_fast(rounds: Rounds, engine: str, base: str) -> Estimate:
    return ratio_of_rounds(rounds[base]["wall_ms"], rounds[engine]["wall_ms"])


def shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
