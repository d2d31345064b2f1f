"""How much of the distance to labels adaptation closes: the recipe of tweet-sentiment over several seeds.

.venv/bin/python bench/adaptation.py run [--seeds 0 1 2] [--methods self-training coral …] [--target tweets]
.venv/bin/python bench/adaptation.py table bench/results/<machine>

1. `run` tunes once for each seed, which draws the splits of both domains, the head and the order of batches, and leaves
   each artifact below models/tweet-sentiment/.cache/adaptation/; runs that are there already are kept. The recipe as it
   stands is seed 0, and its artifact the model's own.
2. `table` writes what all of them measured into adaptation.json and .md of that folder.

Targets: tweets, and two of the same archive that were not looked at while the method was found: movies and editorials.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from figures.adaptation import page

from tldeploy import artifacts, pipeline
from tldeploy.artifacts import fingerprint, write_file
from tldeploy.data.fetch import fetch_files
from tldeploy.recipe import ADAPTATIONS, Fetch, Recipe

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "tweet-sentiment"
RUNS = MODEL / ".cache" / "adaptation"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
OTHERS = {  # each with the sha256 of its file
    "movies": (
        "movieReviewSnippets_GroundTruth.txt",
        "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    ),
    "editorials": (
        "nytEditorialSnippets_GroundTruth.txt",
        "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
    ),
}


def run(seeds: list[int], methods: list[str], target: str) -> None:
    from tldeploy.tuning.tune import tune

    pipeline.fetch(MODEL)
    for seed in seeds:
        recipe = _recipe(seed, methods, target)
        if recipe == Recipe.load(MODEL):
            pipeline.tune(MODEL)
            continue
        folder = RUNS / f"{target}-{'+'.join(methods)}-{seed}"
        inputs = fingerprint(recipe.section("data", "backbone", "tune", "adapt"))
        if not artifacts.is_current(folder, "tune", inputs):
            tune(recipe, folder, inputs, {})


def _recipe(seed: int, methods: list[str], target: str) -> Recipe:
    recipe = Recipe.load(MODEL)
    assert recipe.adapt is not None
    adapt: dict[str, Any] = {"methods": methods}
    if target in OTHERS:
        member, sha256 = OTHERS[target]
        table = {"columns": ["id", "rating", "text"], "encoding": "latin-1"}
        file = {"member": f"{ARCHIVE}!{member}", "sha256": sha256, "to": f"{target}.csv", "table": table}
        wanted = Fetch.model_validate({"package": recipe.fetch[0].package, "kind": "sdist", "files": [file]})
        folder = MODEL / ".cache" / "targets" / target
        inputs = fingerprint(wanted.model_dump(mode="json"))
        if not artifacts.is_current(folder, "fetch", inputs):
            fetch_files([wanted], folder, target, inputs, False)
        # As many rows to learn from as there are tweets; the others are held out.
        adapt |= {"file": f".cache/targets/{target}/{target}.csv", "test": 0.8 if target == "movies" else 0.6}
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"seed": seed}),
            "tune": recipe.tune.model_copy(update={"seed": seed}),
            "adapt": recipe.adapt.model_copy(update=adapt),
        }
    )


def record() -> dict[str, Any]:
    """Every run: its target, seed and methods, weighted F1 on held-out target rows and on the source, the scores."""
    runs = []
    environment: dict[str, Any] = {}
    own = Recipe.load(MODEL)
    folders = [MODEL / "tuned", *sorted(path for path in RUNS.glob("*") if not path.name.startswith("."))]
    for folder in filter(Path.exists, folders):
        manifest = artifacts.load(folder, "tune")
        target, _, rest = folder.name.partition("-") if folder.parent == RUNS else ("tweets", "", str(own.data.seed))
        decided = {choice.about: choice for choice in manifest.decisions}
        environment = manifest.environment
        runs.append(
            {
                "target": target,
                "seed": int(rest.rpartition("-")[2]),
                "source_only": decided["source-only"].value,
                "kept": manifest.details["kept"],
                "distance": decided["distance of the domains"].value,
                "candidates": manifest.metrics,
            }
        )
    return {"environment": environment, "runs": runs}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    writing = verbs.add_parser("table")
    writing.add_argument("out", type=Path)
    running = verbs.add_parser("run")
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    running.add_argument("--methods", nargs="+", choices=ADAPTATIONS, default=["self-training", "noisy-student"])
    running.add_argument("--target", choices=["tweets", *OTHERS], default="tweets")
    given = parser.parse_args(arguments)
    if given.verb == "run":
        run(given.seeds, given.methods, given.target)
    else:
        found = record()
        given.out.mkdir(parents=True, exist_ok=True)
        write_file(given.out / "adaptation.json", json.dumps(found, indent=2) + "\n")
        write_file(given.out / "adaptation.md", page(found))
        print(page(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
