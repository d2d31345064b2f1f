"""What `tldeploy deploy --tune` finds for a model, goal by goal; every candidate with its figures.

A goal is `throughput`, `latency`, or a p99 in milliseconds. Each takes four minutes, and those recorded before stay.

.venv/bin/python bench/fitting.py models/review-sentiment bench/results/<machine> throughput latency 50
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures.fitting import page

from tldeploy import environment
from tldeploy.artifacts import write_file
from tldeploy.data.rows import Rows
from tldeploy.errors import QualityError
from tldeploy.recipe import Recipe
from tldeploy.triton.fitting.fit import fit
from tldeploy.triton.fitting.goals import Goal

SECONDS = 240


def measure(recipe: Recipe, goal: Goal) -> dict[str, Any]:
    """The record of the deploy artifact; where no settings hold p99, only the goal and the reason."""
    rows = Rows.load(recipe.path("tuned") / "validation.jsonl").inputs
    try:
        with tempfile.TemporaryDirectory() as folder:
            manifest = fit(
                recipe.path("onnx"),
                rows,
                recipe.deploy,
                goal,
                about_rows=f"the {len(rows)} validation rows",
                most_clients=max(recipe.bench.concurrency),
                seconds=SECONDS,
                out=Path(folder) / "serving",
                name=recipe.name,
                inputs="",
            )
            return dict(manifest.details["tuning"])
    except QualityError as error:
        return {"goal": goal.as_json(), "reason": error.found, "candidates": []}


def main(recipe: Recipe, out: Path, names: Sequence[str]) -> None:
    file = out / "fitting.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    for name in names:
        results[name] = measure(recipe, Goal(name) if name in ("throughput", "latency") else Goal(p99_ms=float(name)))
        report = {"model": recipe.name, "environment": environment.describe(), "results": results}
        write_file(file, json.dumps(report, indent=1) + "\n")
        write_file(out / "fitting.md", page(report))


if __name__ == "__main__":
    main(Recipe.load(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
