"""The verbs that measure, and those that read what was measured: bench, gate, capacity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tldeploy import artifacts, engines
from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.benchmarking import SCHEMA_VERSION
from tldeploy.devices import Device
from tldeploy.pipeline.places import refuse_served_elsewhere, to_bench
from tldeploy.pipeline.stage import Outcome, RecipeLike, check_lineage, loaded, unless_current
from tldeploy.recipe import Recipe
from tldeploy.staleness import here

if TYPE_CHECKING:
    from tldeploy.benchmarking.capacity import Capacity
    from tldeploy.benchmarking.comparison import Comparison
    from tldeploy.benchmarking.gate import Judged


def bench(recipe: RecipeLike, force: bool = False, *, device: Device | None = None) -> Outcome:
    """Measure every engine of the recipe on the held-out rows, in one interleaved run, and write the report.

    device: where those that are not served compute, instead of the recipe's `bench.device`. Raises MachineError where
    this machine has not what they need, RecipeError for engines that do not compute there, and where it is a GPU and
    what is published runs on the CPU.
    """
    recipe = to_bench(loaded(recipe), device)
    parents = {kind: artifacts.load(folder, kind) for kind, folder in engines.artifacts_behind(recipe)}
    folder = recipe.path("bench")
    check_lineage(recipe, parents)
    if "deploy" in parents:
        refuse_served_elsewhere(recipe, _served_on(recipe))
    hashes = {kind: manifest.sha256 for kind, manifest in parents.items()}
    section = {**recipe.section("bench")["bench"], "device": recipe.bench_device()}
    inputs = fingerprint([SCHEMA_VERSION, section, hashes, *here()])

    def run_stage() -> Manifest:
        from tldeploy.benchmarking.bench import bench as run_bench

        with engines.opened(recipe, parents["export"]) as runners:
            return run_bench(
                recipe.bench,
                recipe.name,
                tuned=recipe.path("tuned"),
                exported=recipe.path("onnx"),
                runners=runners,
                out=folder,
                inputs=inputs,
                parents=hashes,
            )

    outcome = unless_current("bench", folder, inputs, force, run_stage, hashes, measures=True)
    if outcome.skipped:
        from tldeploy.benchmarking.bench import lay_out

        lay_out(folder)
    return outcome


def _served_on(recipe: Recipe) -> Device | None:
    from tldeploy.triton import placement, repository

    place = recipe.path(recipe.deploy.repository)
    return placement.of(place, repository.published(place, recipe.name))


def gate(
    recipe: RecipeLike,
    against: str | Path,
    fail_on: str | None = None,
    force: bool = False,
    any_machine: bool = False,
    *,
    device: Device | None = None,
) -> tuple[Outcome, Comparison, list[Judged]]:
    """Bench, lay the run beside an older report, and judge what must not have got worse, as `p99+10%,accuracy-0.5pt`.

    any_machine: compare timings although the machines differ. comparison.html and comparison.md are written beside the
    recipe. Raises UsageError for conditions that cannot be read or judged, and ArtifactError for what is no report.
    """
    from tldeploy.benchmarking.comparison import compare_runs
    from tldeploy.benchmarking.gate import judge, parse
    from tldeploy.benchmarking.older import REPORT_JSON, paired_drop, read_older
    from tldeploy.benchmarking.page.comparing import write_comparison

    conditions = parse(fail_on) if fail_on is not None else []
    recipe, older = to_bench(loaded(recipe), device), read_older(Path(against))
    judge(conditions, older.report, older.report)  # what the older report lacks is said before minutes of measuring
    outcome = bench(recipe, force, device=device)
    newer = read_older(outcome.folder / REPORT_JSON)
    paired = paired_drop(older, newer, newer.report["reported"]["engine"])
    compared = compare_runs(older, newer, any_machine=any_machine)
    write_comparison(compared, recipe.folder)
    return outcome, compared, judge(conditions, older.report, newer.report, paired, any_machine=any_machine)


def capacity(
    recipe: RecipeLike, rates: Sequence[float], *, p99_ms: float | None = None, cost_per_hour: float | None = None
) -> Capacity:
    """How many replicas each traffic (requests a second) needs, by the report of the last bench; measures nothing.

    p99_ms: what p99 must not be above; by default the bound that was measured, or else the recipe's. cost_per_hour: of
    one replica. Raises ArtifactError without a report or a served engine in it, QualityError where nothing keeps it.
    """
    from tldeploy.benchmarking.capacity import Capacity, footing, measured_bound_ms, plan, remarks
    from tldeploy.benchmarking.older import REPORT_JSON, read_report

    recipe = loaded(recipe)
    path = recipe.path(REPORT_JSON)
    found, _ = read_report(path, f"plan replicas by {path}", f"run `tldeploy bench {recipe.folder}` first")
    if p99_ms is None:
        p99_ms = measured_bound_ms(found) or recipe.bench.p99_ms
    measured = footing(found, p99_ms)
    plans = tuple(plan(measured, rate, cost_per_hour) for rate in rates)
    return Capacity(measured, plans, remarks(measured, found))


def report(benched: Outcome) -> dict[str, Any]:
    """The report of a bench, as report.schema.json describes it."""
    loaded: dict[str, Any] = json.loads((benched.folder / "report.json").read_text(encoding="utf-8"))
    return loaded
