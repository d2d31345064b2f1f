"""The whole of fitting: an export and real rows in, the artifact `serving/` out.

1. The default, the recipe's own settings, is swept first: what it does with each number of clients.
2. Two races: of layouts, then of batchings with the layout that won.
3. The verdict, and the artifact: every candidate with its figures, what was chosen and why, and the raw samples.

`kept` reads the artifact. It is good for the graph, its target, the machine and the settings that it was measured with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tldeploy import artifacts, environment
from tldeploy.artifacts import Choice, Manifest
from tldeploy.errors import ArtifactError, QualityError
from tldeploy.measuring.statistics import Estimate
from tldeploy.progress import say
from tldeploy.recipe import Deploy
from tldeploy.tasks.classification import Row
from tldeploy.triton.fitting.arena import opened
from tldeploy.triton.fitting.goals import Goal, Running, batchings, layouts
from tldeploy.triton.fitting.race import Arena, Sweep, Turn, race, sweep
from tldeploy.triton.fitting.verdict import Figures, Verdict, figures, judge, play
from tldeploy.triton.repository import decided

KIND = "serving"
SAMPLES = "samples.npz"
# Shares of the time: the default alone, layouts, batchings. The verdict has the rest.
FIRST, LAYOUTS, BATCHINGS = 0.05, 0.3, 0.2
MEASURED_ON = ("cpu", "cores", "gpus")


def search(
    arena: Arena, default: Running, goal: Goal, *, cores: int, most_clients: int, most_rows: int, seconds: float
) -> tuple[Verdict, dict[Running, Sweep]]:
    """The verdict in the given time, and the last sweep of everything that was raced. One turn may go beyond the time.

    cores: for the workers. most_clients: at a time. most_rows: of a batch.
    """
    levels, end = goal.clients(most_clients), arena.now() + seconds
    first = sweep(arena, default, goal, levels, FIRST * seconds)
    tried = layouts(default, cores, goal)
    share = LAYOUTS if goal.aim == "throughput" else LAYOUTS + BATCHINGS
    say(f"deploy: {len(tried)} layouts are raced, for {share * seconds:.0f} s")
    raced = {each.running: each for each in race(arena, tried, goal, levels, share * seconds)}
    challengers = [*raced.values()][:1]
    base = challengers[0] if challengers else first
    if others := batchings(default, base.running, goal, most_rows):
        say(f"deploy: {len(others)} ways to batch are raced, for {BATCHINGS * seconds:.0f} s")
        again = race(arena, [base.running, *others], goal, levels, BATCHINGS * seconds)
        raced |= {each.running: each for each in again}
        challengers += [each for each in again[:1] if each.running != base.running]
    say(f"deploy: the best are measured anew with the recipe's settings, for {max(0.0, end - arena.now()):.0f} s")
    return judge(play(arena, first, challengers, goal, end - arena.now()), goal), raced


def fit(
    export: Path,
    rows: Sequence[Row],
    settings: Deploy,
    goal: Goal,
    *,
    about_rows: str,
    most_clients: int,
    seconds: float,
    out: Path,
    name: str,
    inputs: str,
) -> Manifest:
    """Measure the export on a private server, and write `out`, an artifact of kind "serving".

    settings: the recipe's. rows: what clients send. about_rows: which rows they are, for the record. most_clients: at
    the same time.
    Raises QualityError where no settings surely hold the goal's p99, and ServerError.
    """
    exported, cores = artifacts.load(export, "export"), environment.usable_cores()
    with opened(export, settings, rows, most_clients) as arena:
        start = arena.now()
        verdict, raced = search(
            arena,
            Running.of(settings),
            goal,
            cores=cores,
            most_clients=most_clients,
            most_rows=settings.max_batch_size,
            seconds=seconds,
        )
        took_s = arena.now() - start
    if not verdict.holds:
        fix = "allow a higher --p99, give more --tune-minutes, or deploy the recipe's settings without --tune"
        raise QualityError(f"find settings for {goal}", verdict.reason, fix)
    choice = Choice(about="serving settings", value=verdict.chosen.as_json(), reason=verdict.reason)
    record = {
        "goal": goal.as_json(),
        "rows": about_rows,
        "candidates": list(_candidates(verdict, raced, goal)),
        "chosen": choice.value,
        "reason": choice.reason,
        "machine": {fact: environment.describe()[fact] for fact in MEASURED_ON},
        "seconds": round(took_s, 1),
    }
    with artifacts.writing(out) as folder:
        _save_samples(folder / SAMPLES, arena.measured)
        manifest = Manifest(
            kind=KIND,
            name=name,
            inputs=inputs,
            decisions=[choice],
            environment=environment.describe(),
            parents={"export": exported.sha256},
            details={"good_for": _good_for(exported, settings), "tuning": record},
        )
        return artifacts.seal(folder, manifest)


def _candidates(verdict: Verdict, raced: dict[Running, Sweep], goal: Goal) -> Iterator[dict[str, Any]]:
    """Those of the verdict by its samples, the others by their last turn in the race."""
    for each in verdict.judged:
        yield _candidate(each.running, "verdict", each.figures, each.gain)
    judged = {each.running for each in verdict.judged}
    for running, swept in raced.items():
        if running not in judged:
            yield _candidate(running, "race", figures([swept.best(goal)]), None)


def _candidate(running: Running, by: str, measured: Figures, gain: Estimate | None) -> dict[str, Any]:
    return {"settings": running.as_json(), "measured_in": by, **measured.as_json(), "gain": gain and gain.as_json()}


def _save_samples(path: Path, measured: Sequence[tuple[Running, Turn]]) -> None:
    np.savez_compressed(
        path,
        settings=np.array([json.dumps(running.as_json()) for running, _ in measured]),
        clients=np.array([turn.clients for _, turn in measured]),
        elapsed_s=np.array([turn.elapsed_s for _, turn in measured]),
        client_share=np.array([turn.client_share for _, turn in measured]),
        requests=np.array([len(turn.latency_ms) for _, turn in measured]),
        latency_ms=np.concatenate([turn.latency_ms for _, turn in measured]),
    )


def _good_for(exported: Manifest, default: Deploy) -> dict[str, Any]:
    """What a configuration's speed depends on: the graph, whatever its weights are; what it was made for; the machine;
    the other settings, the recipe's and those that follow from the export."""
    chosen = exported.details["chosen"]
    variant = next(each for each in exported.details["variants"] if each["name"] == chosen)
    here, settings = environment.describe(), decided(exported, default)
    return {
        "graph": [exported.task, chosen, variant["size_bytes"]],
        "target": exported.details.get("target", "cpu"),
        "machine": [here[fact] for fact in MEASURED_ON],
        "settings": settings.model_dump(mode="json", exclude={"repository", "keep_versions", "p99_ms"}),
    }


def kept(folder: Path, export: Path, default: Deploy) -> tuple[Deploy, dict[str, Any] | None]:
    """The recipe's settings as fitted, with the record of it; as they are, and None, where nothing good was found.

    Says why what is in the folder is not used. Raises ArtifactError when there is no export.
    """
    if not (folder / artifacts.MANIFEST).is_file():
        return default, None
    now = _good_for(artifacts.read(export, "export"), default)
    try:
        manifest = artifacts.load(folder, KIND)
        others = [what for what, value in now.items() if manifest.details["good_for"].get(what) != value]
        why_not = f"what they were found for has changed: {', '.join(others)}" if others else ""
    except ArtifactError as error:
        why_not = error.found
    if why_not:
        say(f"deploy: the settings in {folder} are not used: {why_not}; `tldeploy deploy --tune` finds new ones")
        return default, None
    record: dict[str, Any] = manifest.details["tuning"]
    say(f"deploy: with the settings in {folder}, found for {Goal(**record['goal'])}")
    return Running(**record["chosen"]).within(default), record
