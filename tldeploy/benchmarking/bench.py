"""The bench stage: opened runners and the held-out rows in, report.json, report.html and report.md out.

1. The rows are those that the tune stage held out, as its artifact has them.
2. Each engine's graph is shown to run where it was asked to, before anything is measured.
3. The engine that the report will speak of is measured against itself: the noise floor.
4. The scenarios run over all runners; the raw samples go into samples.npz.
5. The report is derived from the samples, and a copy of it laid beside the artifact, where a person looks first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tldeploy import artifacts, environment, recipe
from tldeploy.artifacts import Choice, Manifest
from tldeploy.benchmarking.measured import run_scenarios, save_samples
from tldeploy.benchmarking.older import REPORT_JSON, SAMPLES
from tldeploy.benchmarking.page.rendering import render_markdown, render_page
from tldeploy.benchmarking.placing import placements
from tldeploy.benchmarking.report import build_report, reported_engine
from tldeploy.data.rows import Rows
from tldeploy.runtime import Runner
from tldeploy.tasks import load_task

TEST_ROWS = "test.jsonl"
REPORT_HTML, REPORT_MARKDOWN = "report.html", "report.md"


def bench(
    settings: recipe.Bench,
    name: str,
    tuned: Path,
    exported: Path,
    runners: Sequence[Runner],
    *,
    out: Path,
    inputs: str,
    parents: dict[str, str],
) -> Manifest:
    """Measure `runners` on the held-out rows and write `out`, an artifact of kind "bench".

    parents: kind of each artifact behind the runners to the sha256 of its manifest. The runners stay open.
    Raises QualityError for a runner whose answers cannot be scored, MachineError for one whose graph computes elsewhere
    than asked, and whatever error a runner raises.
    """
    stages = [artifacts.load(tuned, "tune"), artifacts.load(exported, "export")]
    task = load_task(stages[-1].task, exported, stages[-1].labels)
    rows, about_rows = _held_out(tuned, settings.rows)
    names = [runner.name for runner in runners]
    speaks_for = reported_engine(names, stages[-1].details["chosen"])
    where = placements(runners, exported, stages[-1].details["variants"], rows.inputs, task)
    measured = run_scenarios(settings, task, rows, runners, names.index(speaks_for))
    reason = "what a person would be served by, of the engines that were run"
    own = [about_rows, Choice(about="reported engine", value=speaks_for, reason=reason)]
    machine = environment.describe()
    report = build_report(
        name, task, rows, measured, where, stages=stages, own=own, environment=machine, parents=parents
    )
    files = {
        REPORT_JSON: json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        REPORT_HTML: render_page(report, measured.single),
        REPORT_MARKDOWN: render_markdown(report),
    }
    with artifacts.writing(out) as folder:
        save_samples(folder / SAMPLES, measured)
        for file, content in files.items():
            (folder / file).write_text(content, encoding="utf-8")
        manifest = Manifest(
            kind="bench",
            name=name,
            inputs=inputs,
            task=task.name,
            labels=task.labels,
            preprocessing=task.preprocessing,
            metrics={engine["name"]: engine["metric"] for engine in report["engines"]},
            decisions=own,
            environment=machine,
            parents=parents,
        )
        sealed = artifacts.seal(folder, manifest)
    lay_out(out)
    return sealed


def lay_out(folder: Path) -> None:
    """Copy the report out of the artifact to where a person looks first, beside it, unless it lies there already."""
    for file in (REPORT_JSON, REPORT_HTML, REPORT_MARKDOWN):
        content, beside = (folder / file).read_bytes(), folder.parent / file
        if not beside.is_file() or beside.read_bytes() != content:
            artifacts.write_file(beside, content)


def _held_out(tuned: Path, wanted: int | None) -> tuple[Rows, Choice]:
    """All held-out rows, or the wanted number of them, spread evenly because files are often sorted."""
    rows = Rows.load(tuned / TEST_ROWS)
    if wanted is None or wanted >= len(rows):
        return rows, Choice(about="measured rows", value=len(rows), reason="all rows that were held out")
    taken = np.arange(wanted) * len(rows) // wanted
    reason = f"the recipe's bench.rows; taken evenly from the {len(rows)} rows that were held out"
    return rows.take(taken), Choice(about="measured rows", value=wanted, reason=reason)
