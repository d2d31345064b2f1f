"""How many replicas a traffic needs, from the report of a bench.

1. `footing` finds the rate that one replica is planned for. Where requests at random (the Server scenario) were
   measured with the asked bound on p99, or a stricter one, it is the highest rate that kept it. Otherwise the closed
   loop has to do: of the numbers of clients whose p99 is within the bound the one with the best rate, of its rounds
   the slowest, and of that 60 %.
2. `plan` divides a traffic by it, adds one replica that may be lost, and says how busy the pool is and how long a
   request waits, by Erlang's C formula (M/M/c).
3. `remarks` says what the figures rest on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tldeploy.benchmarking.report import Report, milliseconds, per_second
from tldeploy.environment import cores_words
from tldeploy.errors import ArtifactError, QualityError, UsageError
from tldeploy.measuring.statistics import fewest

UTILISATION = 0.6  # of what a replica does when it is never idle; bench/README.md says why
SPARE = 1
MOST_PER_S = 10_000_000.0


@dataclass(frozen=True)
class Footing:
    """What one replica carries, and by which measurement.

    rate_per_s: that it is planned for. busy_rate_per_s: that it does when it is never idle. level: the rate offered, or
    the number of clients. p99_ms, samples: of that level; None where the report has none. kept_up: whether the load's
    generator did; None where it was not recorded.
    """

    engine: str
    bound_ms: float
    scenario: Literal["server", "closed loop"]
    level: str
    rate_per_s: float
    busy_rate_per_s: float
    p99_ms: float | None
    samples: int | None
    kept_up: bool | None
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Replicas for a traffic, the spare one included.

    utilisation: share of the time that a replica is busy. wait_ms: mean time that a request waits before it is served;
    None where the load is above what the closed loop carried. `_one_lost`: when the spare one is missing.
    cost_per_million: requests, in the currency of the price; None without one.
    """

    rate_per_s: float
    replicas: int
    utilisation: float
    wait_ms: float | None
    utilisation_one_lost: float
    wait_ms_one_lost: float | None
    cost_per_million: float | None


@dataclass(frozen=True)
class Capacity:
    """What `tldeploy capacity` answers."""

    footing: Footing
    plans: tuple[Plan, ...]
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def footing(report: Report, bound_ms: float) -> Footing:
    """The rate that one replica of the served engine is planned for, with p99 within the bound.

    Raises ArtifactError if no served engine was measured, and QualityError if nothing measured keeps the bound.
    """
    if not 0 < bound_ms < math.inf:
        raise UsageError("plan replicas", f"a p99 of {bound_ms:g} ms", "give a duration above 0, such as 50ms")
    engine, asked = _served(report), f"plan replicas for a p99 of {bound_ms:g} ms"
    server = engine.get("server")
    if server is None:
        return _by_closed_loop(asked, engine, bound_ms, math.inf)
    measured_ms, highest = server["p99_bound_ms"], server["highest_rate_per_s"]
    if highest is not None and measured_ms <= bound_ms:
        return _by_server(engine, bound_ms)
    if highest is None and measured_ms >= bound_ms:
        nearest = min(server["trials"], key=lambda trial: (trial["over_bound"] / trial["samples"], trial["rate_per_s"]))
        p99 = "too few for a p99" if nearest["p99_ms"] is None else f"p99 {milliseconds(nearest['p99_ms'])} ms"
        over = f"{nearest['over_bound']:,} of {nearest['samples'] + nearest['dropped']:,}"
        best = (
            f"no rate that was tried kept {measured_ms:g} ms; the nearest was {per_second(nearest['rate_per_s'])} "
            f"requests a second, {over} over it ({p99})"
        )
        raise QualityError(asked, best, "allow a longer p99, or measure lower `bench.rates` or a faster engine")
    return _by_closed_loop(asked, engine, bound_ms, math.inf if measured_ms <= bound_ms else highest)


def measured_bound_ms(report: Report) -> float | None:
    """The bound on p99 that the Server scenario of the served engine was to keep; None where it was not run."""
    server = _served(report).get("server")
    return server and float(server["p99_bound_ms"])


def plan(found: Footing, rate_per_s: float, cost_per_hour: float | None = None) -> Plan:
    """Replicas for a traffic of so many requests a second. cost_per_hour: of one replica. Raises UsageError."""
    if not 0 < rate_per_s <= MOST_PER_S:
        fix = f"give a rate above 0, at most {MOST_PER_S:,.0f}"
        raise UsageError("plan replicas", f"a rate of {rate_per_s:g} requests a second", fix)
    if cost_per_hour is not None and not 0 < cost_per_hour < math.inf:
        raise UsageError("plan replicas", f"a price of {cost_per_hour:g} an hour", "give a price above 0")
    needed = math.ceil(round(rate_per_s / found.rate_per_s, 9))
    replicas, load = needed + SPARE, rate_per_s / found.busy_rate_per_s
    return Plan(
        rate_per_s,
        replicas,
        load / replicas,
        _wait_ms(replicas, load, found.busy_rate_per_s),
        load / needed,
        _wait_ms(needed, load, found.busy_rate_per_s),
        None if cost_per_hour is None else 1e6 * replicas * cost_per_hour / (3600 * rate_per_s),
    )


def erlang_c(servers: int, load: float) -> float:
    """The share of requests that have to wait, for a Poisson traffic in one queue before equal servers (M/M/c).

    load: in erlangs, the rate over that of one server; below `servers`. By the recursion of Erlang's B formula, which
    neither overflows nor cancels (Cooper, Introduction to Queueing Theory, 1981, section 3.3).
    """
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def remarks(found: Footing, report: Report) -> tuple[str, ...]:
    """What the figures rest on, and what they cannot carry; a sentence each."""
    measurement, *others = _grounds(found, report["environment"])
    return (measurement, *found.doubts, *others)


def _wait_ms(servers: int, load: float, busy_rate_per_s: float) -> float | None:
    if load >= servers:
        return None
    return 1000 * erlang_c(servers, load) / ((servers - load) * busy_rate_per_s)


def _served(report: Report) -> dict[str, Any]:
    """The served engine: the one that the report speaks of, if that is one."""
    served = [engine for engine in report["engines"] if engine["name"].startswith("triton")]
    if not served:
        names = ", ".join(engine["name"] for engine in report["engines"])
        fix = "add triton-http to `bench.engines`, then `tldeploy deploy` and `tldeploy bench`"
        raise ArtifactError("plan replicas", f"no served engine was measured, only {names}", fix)
    return next((engine for engine in served if engine["name"] == report["reported"]["engine"]), served[0])


def _by_server(engine: dict[str, Any], bound_ms: float) -> Footing:
    server = engine["server"]
    rate, measured_ms = server["highest_rate_per_s"], server["p99_bound_ms"]
    trial = next(trial for trial in server["trials"] if trial["rate_per_s"] == rate)
    doubts = []
    if trial["p99_ms"] is None:
        needed, least = trial["needed"]["p99_ms"], fewest(0.99)
        together = f", {needed / least:.1f} times {least} as they hang together in a queue" if needed > least else ""
        doubts.append(
            f"not sure: {trial['samples']:,} requests are too few to know a p99, which takes {needed:,}{together}: of "
            f"these 99 % were within {measured_ms:g} ms, by chance or not; raise bench.seconds"
        )
    elif (high := trial["p99_ms_interval"][1]) is None or high > bound_ms:
        reach = "has no upper end" if high is None else f"reaches {milliseconds(high)} ms"
        doubts.append(f"not sure: the 95 % interval of that p99 {reach}; a longer bench.seconds makes it narrower")
    if missed := [
        lower["rate_per_s"] for lower in server["trials"] if lower["rate_per_s"] < rate and not lower["keeps_bound"]
    ]:
        doubts.append(f"not sure: a lower rate, {per_second(missed[0])} a second, did not keep the bound")
    if measured_ms < bound_ms:
        doubts.append(f"measured with a bound of {measured_ms:g} ms; with bench.p99_ms: {bound_ms:g} it may be more")
    busy = max(min(level["rounds_per_s"]) for level in engine["closed_loop"].values())
    if busy <= rate:
        doubts.append(
            "no wait can be said where the closed loop, which ran at another moment, carried no more than that"
        )
    health = trial["generator"]
    return Footing(
        engine["name"],
        bound_ms,
        "server",
        f"{per_second(rate)} requests a second",
        rate,
        busy,
        trial["p99_ms"],
        trial["samples"],
        health and health["kept_up"],
        tuple(doubts),
    )


def _by_closed_loop(asked: str, engine: dict[str, Any], bound_ms: float, most: float) -> Footing:
    """most: a rate that kept only a longer bound."""
    levels = engine["closed_loop"]
    known = {clients: level for clients, level in levels.items() if level["p99_ms"] is not None}
    unknown = {clients: level for clients, level in levels.items() if clients not in known}
    too_few = f"too few requests for a p99 with {', '.join(map(_clients, unknown))}"
    longer = f"set bench.seconds to {_seconds(unknown)} or more and run `tldeploy bench` again" if unknown else ""
    if not known:
        raise QualityError(asked, f"{engine['name']} was asked {too_few}; {_best_known(engine)}", longer)
    kept = [clients for clients, level in known.items() if level["p99_ms"] <= bound_ms]
    if not kept:
        clients = min(known, key=lambda clients: float(known[clients]["p99_ms"]))
        best = (
            f"the best p99 of {engine['name']} is {milliseconds(known[clients]['p99_ms'])} ms, with {_clients(clients)}"
        )
        found = f"{best}; {too_few}" if unknown else best
        raise QualityError(asked, found, longer or "allow a longer p99, or measure fewer clients or a faster engine")
    clients = max(kept, key=lambda clients: float(engine["throughput_per_s"][clients]))
    level = levels[clients]
    slowest = min(level["rounds_per_s"])
    doubts = [
        f"clients of the closed loop wait for their answers; traffic that does not has a longer p99: with "
        f"bench.p99_ms: {bound_ms:g} and the scenario `server`, `tldeploy bench` measures that"
    ]
    if unknown:
        doubts.append(f"left out, {too_few}; {longer}")
    if most < UTILISATION * slowest:
        doubts.append(
            f"less than the {per_second(UTILISATION * slowest)} a second of the closed loop: with requests at random, "
            "no higher rate kept even a longer bound"
        )
    health = level.get("generator")
    return Footing(
        engine["name"],
        bound_ms,
        "closed loop",
        _clients(clients),
        min(most, UTILISATION * slowest),
        slowest,
        level["p99_ms"],
        level.get("samples"),
        health and health["kept_up"],
        tuple(doubts),
    )


def _seconds(levels: dict[str, dict[str, Any]]) -> int:
    """Of rounds that give each of these levels of the closed loop the requests that a p99 takes, and a fifth more."""
    slowest = min(float(rate) for level in levels.values() for rate in level["rounds_per_s"])
    return math.ceil(1.2 * fewest(0.99) / slowest)


def _best_known(engine: dict[str, Any]) -> str:
    """The lowest p99 of requests at random; without one the lowest p50 of the closed loop."""
    trials = [trial for trial in (engine.get("server") or {"trials": []})["trials"] if trial["p99_ms"] is not None]
    if trials:
        best = min(trials, key=lambda trial: float(trial["p99_ms"]))
        rate = per_second(best["rate_per_s"])
        return f"the best p99 known is {milliseconds(best['p99_ms'])} ms, with {rate} requests a second at random"
    levels = {clients: level for clients, level in engine["closed_loop"].items() if level["p50_ms"] is not None}
    if not levels:
        return "not even a p50 of it is known"
    clients = min(levels, key=lambda clients: float(levels[clients]["p50_ms"]))
    return f"the best that is known is a p50 of {milliseconds(levels[clients]['p50_ms'])} ms, with {_clients(clients)}"


def _grounds(found: Footing, machine: dict[str, Any]) -> Iterator[str]:
    requests = "" if found.samples is None else f" over {found.samples:,} requests"
    measured = "unknown" if found.p99_ms is None else f"{milliseconds(found.p99_ms)} ms"
    if found.scenario == "server":
        yield f"rests on requests at random (Server), {found.level}: p99 {measured}{requests}"
    else:
        yield (
            f"rests on the closed loop with {found.level}: p99 {measured}{requests}; planned for {UTILISATION:.0%} of "
            f"its slowest round, {per_second(found.busy_rate_per_s)} a second"
        )
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    cores = cores_words(machine["cores"])
    yield f"measured on {machine['cpu']}, {cores}, {gpus}; on another kind of machine measure again"
    yield "the load's generator and the server shared that machine; a replica alone on it does more"
    yield {
        True: "the generator kept up, so the figure is the server's",
        False: "the generator did not keep up: the figure is in part the generator's, and the server may do more",
        None: "whether the generator was the bottleneck was not recorded",
    }[found.kept_up]
    yield (
        "wait: the mean before a request is served, if all replicas take from one queue (M/M/c); a balancer that deals "
        "requests out blindly makes it longer"
    )


def _clients(number: str) -> str:
    return f"{number} client{'' if number == '1' else 's'}"
