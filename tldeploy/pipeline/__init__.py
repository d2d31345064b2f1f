"""The stages in a row: fetch → tune → export → deploy → bench.

Each function reads the artifact of the stage before, computes the fingerprint of everything that determines its own,
and skips the work when an intact artifact with that fingerprint is there. They are the verbs of the command line and
of `import tldeploy`.

places.py       where each of them computes, and whether this machine has it
stage.py        what a stage left, and whether it has to be done again
learning.py     fetch, rank, find_rate, search, tune
graphs.py       export, explain
publishing.py   deploy
measuring.py    bench, gate, capacity, report
"""

from __future__ import annotations

from tldeploy.devices import Device
from tldeploy.pipeline import places
from tldeploy.pipeline.graphs import explain, export
from tldeploy.pipeline.learning import fetch, find_rate, rank, search, tune, tune_stage
from tldeploy.pipeline.measuring import bench, capacity, gate, report
from tldeploy.pipeline.publishing import deploy
from tldeploy.pipeline.stage import Outcome, RecipeLike, alone, loaded
from tldeploy.recipe.serving import ON

__all__ = [
    "Outcome",
    "RecipeLike",
    "bench",
    "capacity",
    "deploy",
    "explain",
    "export",
    "fetch",
    "find_rate",
    "gate",
    "rank",
    "report",
    "run",
    "search",
    "tune",
]


def run(recipe: RecipeLike, force: bool = False, *, device: Device | None = None) -> list[Outcome]:
    """All stages, in order; those whose inputs are unchanged are skipped.

    device: of all of them; what TensorRT will run is trained on CUDA. Before the first stage it raises MachineError
    where this machine has not what one of them needs, and RecipeError for engines that do not compute there.
    """
    alone("run all stages")
    recipe = loaded(recipe)
    target = places.to_measure(recipe, device, None)
    place = places.to_train(recipe, device)
    served = places.to_serve(recipe, device, target, here=True)
    places.refuse_served_elsewhere(places.to_bench(recipe, device), served.deploy.device or ON[target])
    fetched = fetch(recipe, force)
    tuned = tune_stage(recipe, fetched, force, place)
    later = [tuned, *(stage(recipe, force, device=device) for stage in (export, deploy, bench))]
    return [fetched, *later] if fetched else later
