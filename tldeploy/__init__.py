"""tldeploy: from a pretrained network and your labelled data to a measured, quantized ONNX model behind Triton.

The public API has the verbs of the command line; each takes a recipe or its folder:

    import tldeploy

    tldeploy.run("models/review-sentiment")
    with tldeploy.Client(model="review-sentiment") as client:
        print(client.classify(["Great camera, awful battery"]))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tldeploy.benchmarking.page.comparing import compare
    from tldeploy.draft import init
    from tldeploy.pipeline import (
        bench,
        capacity,
        deploy,
        export,
        fetch,
        find_rate,
        rank,
        run,
        search,
        tune,
    )
    from tldeploy.recipe import Recipe
    from tldeploy.runtime.triton import AsyncClient, Client
    from tldeploy.serving import canary, doctor, lint, manifests, predict, rollback, serve, trace, verify
    from tldeploy.triton.fitting.goals import Goal

__version__ = "0.1.0"

_HOMES = {
    "Recipe": "tldeploy.recipe",
    "AsyncClient": "tldeploy.runtime.triton",
    "Client": "tldeploy.runtime.triton",
    "Goal": "tldeploy.triton.fitting.goals",
    "compare": "tldeploy.benchmarking.page.comparing",
    "init": "tldeploy.draft",
    **dict.fromkeys(
        (
            "bench",
            "capacity",
            "deploy",
            "export",
            "fetch",
            "find_rate",
            "rank",
            "run",
            "search",
            "tune",
        ),
        "tldeploy.pipeline",
    ),
    **dict.fromkeys(
        ("canary", "doctor", "lint", "manifests", "predict", "rollback", "serve", "trace", "verify"),
        "tldeploy.serving",
    ),
}
__all__ = [
    "AsyncClient",
    "Client",
    "Goal",
    "Recipe",
    "bench",
    "canary",
    "capacity",
    "compare",
    "deploy",
    "doctor",
    "export",
    "fetch",
    "find_rate",
    "init",
    "lint",
    "manifests",
    "predict",
    "rank",
    "rollback",
    "run",
    "search",
    "serve",
    "trace",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import tldeploy` costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
