"""Which execution provider runs the nodes of each engine's graph: the proof that it ran where it was asked to.

Of an engine of onnxruntime by a profile of its graph, in a session that is opened here as strictly as the engine's own,
with the same options of its provider. Memory that is bound and CUDA graphs that are captured place no node elsewhere:
such a session is profiled without. Of a served engine it is as its server tells it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from tldeploy.measuring.profiling import Placed, placed, profile, sample
from tldeploy.runtime import Runner
from tldeploy.runtime.session import Provider
from tldeploy.tasks.classification import Classification, Row, Tensors


def placements(
    runners: Sequence[Runner],
    exported: Path,
    variants: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    task: Classification,
) -> list[list[Placed] | None]:
    """One a runner, in order; None where there are no execution providers, or nobody tells. What runs on the provider
    that was asked for comes first.

    exported: the folder of the variants. Raises MachineError for computation that ran elsewhere than asked.
    """
    graphs = {f"onnxruntime {each['name']}": exported / each["file"] for each in variants if each["file"]}
    some = sample(rows, task)
    return [_placement(runner, graphs.get(runner.name), some) for runner in runners]


def _placement(runner: Runner, graph: Path | None, rows: Sequence[Tensors]) -> list[Placed] | None:
    provider = runner.provider.partition(",")[0]  # what follows is how it is used
    if graph is None or provider not in get_args(Provider):
        told: list[Placed] | None = getattr(runner, "placement", None)
        return told
    options: Mapping[str, str] = getattr(runner, "settings", {}).get("options", {})
    nodes = profile(graph, rows, cast(Provider, provider), provider_options=options)
    return sorted(placed(nodes), key=lambda found: found.provider != provider)
