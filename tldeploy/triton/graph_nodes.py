"""Where a served graph's nodes run, as its workers tell it in the metrics (backends/onnxruntime/placement.py)."""

from __future__ import annotations

from collections import defaultdict

from tldeploy.measuring.profiling import Placed
from tldeploy.triton.metrics import fetch, samples

METRIC = "tldeploy_graph_"
CPU = "CPUExecutionProvider"


def read_placement(url: str, model: str, version: int) -> list[Placed] | None:
    """By execution provider, the one with most nodes first; of several instances, the one that leaves most to the CPU.

    url: of the server's metrics. model: the graph. None where nobody tells: Triton's native backend does not.

    Raises ServerError for metrics that cannot be read.
    """
    instances: defaultdict[tuple[str, str], defaultdict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for _, (labels, nodes) in samples(fetch(url), METRIC):
        if (labels["model"], labels["version"]) == (model, str(version)):
            instances[labels["instance"], labels["device"]][labels["provider"]][labels["operator"]] = int(nodes)
    if not instances:
        return None
    found = max(instances.values(), key=lambda providers: sum(providers[CPU].values() if CPU in providers else []))
    by_number = {name: dict(sorted(nodes.items(), key=lambda node: -node[1])) for name, nodes in found.items()}
    return sorted((Placed(*each) for each in by_number.items()), key=lambda placed: -placed.nodes)
