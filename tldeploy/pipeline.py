"""The stages in a row: fetch → tune → export → deploy → bench.

Each function reads the artifact of the stage before, computes the fingerprint of everything that determines its own,
and skips the work when an intact artifact with that fingerprint is there. They are the verbs of the command line and
of `import tldeploy`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tldeploy import artifacts, engines
from tldeploy.artifacts import Manifest, fingerprint
from tldeploy.benchmarking import SCHEMA_VERSION
from tldeploy.data.own_files import own_files
from tldeploy.errors import ArtifactError, UsageError
from tldeploy.progress import say
from tldeploy.recipe import Export, Recipe
from tldeploy.staleness import here, tell_why

if TYPE_CHECKING:
    from tldeploy.benchmarking.capacity import Capacity
    from tldeploy.benchmarking.comparison import Comparison
    from tldeploy.benchmarking.gate import Judged
    from tldeploy.exporting.explain import Explained
    from tldeploy.triton.fitting.goals import Goal
    from tldeploy.tuning.candidates import Candidate
    from tldeploy.tuning.finder import Suggestion
    from tldeploy.tuning.search import Searched

RecipeLike = Recipe | str | Path
TUNED_FORMAT = 2  # with calibration.jsonl
SERVING = "serving"  # the folder of settings that were found by measuring


@dataclass(frozen=True)
class Outcome:
    """What a stage left: its artifact's folder and manifest, and whether it was there already."""

    stage: str
    folder: Path
    skipped: bool
    manifest: Manifest


def fetch(recipe: RecipeLike, force: bool = False) -> Outcome | None:
    """Get the files that the recipe's `fetch` section declares, by hash. None when it declares none."""
    from tldeploy.data.fetch import fetch_files

    recipe = _loaded(recipe)
    if not recipe.fetch:
        return None
    folder, inputs = recipe.path("data"), fingerprint(recipe.section("name", "fetch"))

    def run_stage() -> Manifest:
        return fetch_files(recipe.fetch, folder, recipe.name, inputs, force)

    return _unless_current("fetch", folder, inputs, force, run_stage, otherwise="the recipe's `name` or `fetch`")


def tune(recipe: RecipeLike, force: bool = False) -> Outcome:
    """Adapt the backbone to the labelled rows by every method of the recipe; keep one."""
    from tldeploy.tuning import ranks

    recipe = _loaded(recipe)
    with ranks.together():
        with ranks.first_then_others():
            fetched = fetch(recipe)
        return _tune(recipe, fetched, force)


def find_rate(recipe: RecipeLike) -> tuple[Suggestion, Path]:
    """A learning rate for fine-tuning by a range test on the training rows; and the plot of it, `find-rate.html`."""
    from tldeploy.tuning.rates import find_rate_of

    _alone("find a learning rate")
    recipe = _loaded(recipe)
    fetch(recipe)
    return find_rate_of(recipe)


def _tune(recipe: Recipe, fetched: Outcome | None, force: bool) -> Outcome:
    parents = {"fetch": fetched.manifest.sha256} if fetched else {}
    folder = recipe.path("tuned")
    sections = recipe.section("name", "task", "data", "backbone", "tune", "adapt")
    inputs = fingerprint([TUNED_FORMAT, sections, parents, own_files(recipe), *_teacher(recipe)])

    def run_stage() -> Manifest:
        from tldeploy.tuning.tune import tune as run_tune

        return run_tune(recipe, folder, inputs, parents)

    otherwise = f"the recipe's {', '.join(f'`{name}`' for name in sections)}, a file that it names, or tldeploy"
    return _unless_current("tune", folder, inputs, force, run_stage, parents, otherwise=otherwise)


def _teacher(recipe: Recipe) -> list[str]:
    """The hash of the artifact that a student is to learn from. Raises ArtifactError if it is not there."""
    distillation = recipe.tune.distillation
    if distillation is None or "distillation" not in recipe.tune.methods:
        return []
    return [artifacts.read(recipe.path(distillation.teacher) / "tuned", "tune").sha256]


def search(recipe: RecipeLike, trials: int | None = None) -> Searched:
    """Search for better settings of `tune`, as its `search` section says. trials: in all, instead of the recipe's."""
    from tldeploy.tuning.search import search as run_search

    _alone("search for settings")
    recipe = _loaded(recipe)
    fetched = fetch(recipe)
    return run_search(recipe, _search_key(recipe, fetched), trials)


def _search_key(recipe: Recipe, fetched: Outcome | None) -> str:
    """Fingerprint of what a trial's result depends on, besides the settings that it is given."""
    sections = recipe.section("task", "data", "backbone", "tune")
    tune = sections["tune"]
    space = tune["search"]["space"] if tune["search"] else {}
    for name in ("methods", "keep", "trackers", "few_shot", "distillation", *space):
        del tune[name]
    if tune["search"]:
        del tune["search"]["trials"]
    parents = {"fetch": fetched.manifest.sha256} if fetched else {}
    return fingerprint([sections, parents, own_files(recipe)])


def rank(recipe: RecipeLike, backbones: Sequence[str]) -> list[Candidate]:
    """Backbones by how well their features would serve the recipe's rows, without training; the best first."""
    from tldeploy.tuning.candidates import rank_backbones

    _alone("rank backbones")
    recipe = _loaded(recipe)
    fetch(recipe)
    return rank_backbones(recipe, backbones)


def export(recipe: RecipeLike, force: bool = False, **overrides: Any) -> Outcome:
    """Make the ONNX variants of the tuned network, measure them, and choose one.

    overrides: settings of the recipe's export section, for this call only, such as `max_drop=1.0, goal="size"`.
    Raises UsageError for values that a recipe could not have.
    """
    recipe = _loaded(recipe)
    settings = _overridden(recipe.export, overrides)
    tuned, folder = recipe.path("tuned"), recipe.path("onnx")
    section = {"export": settings.model_dump(mode="json")}
    parents = {"tune": artifacts.load(tuned, "tune").sha256}
    inputs = fingerprint([section, parents["tune"], *here()])

    def run_stage() -> Manifest:
        from tldeploy.exporting.export import export as run_export

        return run_export(settings, tuned, folder, inputs)

    return _unless_current("export", folder, inputs, force, run_stage, parents, measures=True)


def explain(recipe: RecipeLike) -> list[Explained]:
    """Where time and error sit in fp32 and in each variant whose file is kept, group by group of the network."""
    from tldeploy.exporting.explain import explain as run_explain

    recipe = _loaded(recipe)
    tuned, exported = recipe.path("tuned"), recipe.path("onnx")
    behind = {"tune": artifacts.load(tuned, "tune"), "export": artifacts.load(exported, "export")}
    _check_lineage(recipe, behind, "explain")
    return run_explain(behind["export"], exported, tuned)


def deploy(
    recipe: RecipeLike,
    force: bool = False,
    *,
    check: bool = True,
    canary: float | None = None,
    goal: Goal | None = None,
    minutes: float = 5.0,
) -> Outcome:
    """Publish the chosen variant to the model repository, as a new version.

    check: it has to pass a server of its own first; without, the deploy artifact says so. canary: instead, the share of
    the requests (0 .. 1) that it answers beside the live version.
    goal: what the server is to be good at; without a p99 of its own, the recipe's. Settings for it are found by
    measuring, in about so many minutes, and kept for later calls; the recipe's stand where nothing is better.
    Raises QualityError, and publishes nothing, where the goal's p99 cannot be held.
    """
    from tldeploy.triton import checking, lineage, repository
    from tldeploy.triton.canary import lifecycle
    from tldeploy.triton.fitting import fit

    recipe = _loaded(recipe)
    exported, place = recipe.path("onnx"), recipe.path(recipe.deploy.repository)
    say(f"deploy: {recipe.name} to {place}")
    if goal is not None:
        _fit(recipe, goal, minutes, force)
    settings, tuning = fit.kept(recipe.path(SERVING), exported, recipe.deploy)
    passing = checking.check if check else None
    skipped = not force and repository.is_current(exported, place, recipe.name, settings, tuning, checked=check)
    if not skipped and not force:
        live_folder = place / recipe.name / str(repository.live_version(place / recipe.name))
        otherwise = "the recipe's `deploy`, the settings found by measuring, or what was published"
        tell_why("deploy", live_folder, {"export": artifacts.read(exported, "export").sha256}, False, otherwise)
    if skipped:
        live = repository.published(place, recipe.name)
    elif canary is not None:
        behind = lineage.record(recipe, place)
        _, live = lifecycle.start(exported, place, recipe.name, settings, canary, behind, passing, tuning)
    else:
        behind = lineage.record(recipe, place)
        live = repository.publish(exported, place, recipe.name, settings, behind, passing, tuning)
    outcome = Outcome("deploy", live.path, skipped, live.manifest)
    _tell(outcome)
    return outcome


def _fit(recipe: Recipe, goal: Goal, minutes: float, force: bool) -> None:
    """Find settings for the server by the validation rows: the held-out ones are for the report."""
    from tldeploy.data.rows import Rows
    from tldeploy.triton.fitting.fit import KIND, fit

    tuned, exported, folder = recipe.path("tuned"), recipe.path("onnx"), recipe.path(SERVING)
    parents = {"tune": artifacts.load(tuned, "tune").sha256, "export": artifacts.load(exported, "export").sha256}
    if goal.aim == "throughput" and goal.p99_ms is None:
        goal = replace(goal, p99_ms=recipe.deploy.p99_ms)
    clients = max(recipe.bench.concurrency)
    inputs = fingerprint([*parents.values(), recipe.section("deploy"), goal.as_json(), minutes, clients, *here()])

    def run_stage() -> Manifest:
        rows = Rows.load(tuned / "validation.jsonl").inputs
        return fit(
            exported,
            rows,
            recipe.deploy,
            goal,
            about_rows=f"the {len(rows)} validation rows",
            most_clients=clients,
            seconds=60 * minutes,
            out=folder,
            name=recipe.name,
            inputs=inputs,
        )

    otherwise = "the goal, the recipe's `deploy`, or tldeploy"
    _unless_current(KIND, folder, inputs, force, run_stage, parents, measures=True, otherwise=otherwise)


def bench(recipe: RecipeLike, force: bool = False) -> Outcome:
    """Measure every engine of the recipe on the held-out rows, in one interleaved run, and write the report."""
    recipe = _loaded(recipe)
    parents = {kind: artifacts.load(folder, kind) for kind, folder in engines.artifacts_behind(recipe)}
    folder = recipe.path("bench")
    _check_lineage(recipe, parents)
    hashes = {kind: manifest.sha256 for kind, manifest in parents.items()}
    inputs = fingerprint([SCHEMA_VERSION, recipe.section("bench"), hashes, *here()])

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

    outcome = _unless_current("bench", folder, inputs, force, run_stage, hashes, measures=True)
    if outcome.skipped:
        from tldeploy.benchmarking.bench import lay_out

        lay_out(folder)
    return outcome


def gate(
    recipe: RecipeLike,
    against: str | Path,
    fail_on: str | None = None,
    force: bool = False,
    any_machine: bool = False,
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
    recipe, older = _loaded(recipe), read_older(Path(against))
    judge(conditions, older.report, older.report)  # what the older report lacks is said before minutes of measuring
    outcome = bench(recipe, force)
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

    recipe = _loaded(recipe)
    path = recipe.path(REPORT_JSON)
    found, _ = read_report(path, f"plan replicas by {path}", f"run `tldeploy bench {recipe.folder}` first")
    if p99_ms is None:
        p99_ms = measured_bound_ms(found) or recipe.bench.p99_ms
    measured = footing(found, p99_ms)
    plans = tuple(plan(measured, rate, cost_per_hour) for rate in rates)
    return Capacity(measured, plans, remarks(measured, found))


def run(recipe: RecipeLike, force: bool = False) -> list[Outcome]:
    """All stages, in order; those whose inputs are unchanged are skipped."""
    _alone("run all stages")
    recipe = _loaded(recipe)
    fetched = fetch(recipe, force)
    tuned = _tune(recipe, fetched, force)
    later = [tuned, *(stage(recipe, force) for stage in (export, deploy, bench))]
    return [fetched, *later] if fetched else later


def report(benched: Outcome) -> dict[str, Any]:
    """The report of a bench, as report.schema.json describes it."""
    loaded: dict[str, Any] = json.loads((benched.folder / "report.json").read_text(encoding="utf-8"))
    return loaded


def _alone(asked: str) -> None:
    """Raise UsageError in one of several processes that torchrun or accelerate started: only `tune` shares its work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found = "several processes were started together, which only the tune stage can share"
        raise UsageError(asked, found, "start them for `tldeploy tune`, and this as one process")


def _loaded(recipe: RecipeLike) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)


def _overridden(section: Export, overrides: dict[str, Any]) -> Export:
    try:
        return Export.model_validate(section.model_dump() | overrides)
    except ValidationError as error:
        wrong = error.errors()[0]
        found = f"{'.'.join(map(str, wrong['loc']))} is {wrong['input']!r}: {wrong['msg']}"
        raise UsageError("export with these settings", found, "give what `export` may have in a recipe") from None


def _unless_current(
    stage: str,
    folder: Path,
    inputs: str,
    force: bool,
    work: Callable[[], Manifest],
    parents: Mapping[str, str] | None = None,
    *,
    measures: bool = False,
    otherwise: str = "",
) -> Outcome:
    """Skip the work where its artifact is current; where one is there and is not, say why."""
    skipped = not force and artifacts.is_current(folder, stage, inputs)
    if not skipped and not force:
        tell_why(stage, folder, parents or {}, measures, otherwise or f"the recipe's `{stage}`, or tldeploy")
    outcome = Outcome(stage, folder, skipped, artifacts.load(folder, stage) if skipped else work())
    _tell(outcome)
    return outcome


def _tell(outcome: Outcome) -> None:
    say(f"{outcome.stage}: {'unchanged, kept' if outcome.skipped else 'done'} ({outcome.folder})")


def _check_lineage(recipe: Recipe, behind: dict[str, Manifest], verb: str = "bench") -> None:
    """Raise ArtifactError if a stage was run again and the stages after it were not: figures would be of two models."""
    for kind, parent in (("export", "tune"), ("deploy", "export")):
        if kind in behind and behind[kind].parents[parent] != behind[parent].sha256:
            found = f"the {kind} artifact was made from another {parent} artifact than the one that is there now"
            raise ArtifactError(f"{verb} {recipe.name}", found, f"run `tldeploy {kind} {recipe.folder}` first")
