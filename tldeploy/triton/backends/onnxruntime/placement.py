"""On which execution provider each node of a graph lies, told in the server's metrics:

tldeploy_graph_nodes    {model, version, instance, device, provider, operator}: how many nodes of that operator

It is the session's own assignment: the graph as it was divided among the providers. Nodes that are fused afterwards
stay with theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnxruntime as ort

NODES = "tldeploy_graph_nodes"
DESCRIPTION = "Nodes of the graph by the execution provider that runs them"


def placement(session: ort.InferenceSession) -> Counter[tuple[str, str]]:
    """How many nodes of each provider and operator there are; the session was opened with
    `session.record_ep_graph_assignment_info`."""
    parts = session.get_provider_graph_assignment_info()
    return Counter((part.ep_name, node.op_type) for part in parts for node in part.get_nodes())


def tell(session: ort.InferenceSession, family: Any, labels: Mapping[str, str]) -> list[Any]:
    """Put the placement of an instance into a family of metrics. It stays there as long as what is returned does.

    family: as Triton makes it (pb_utils.MetricFamily). labels: the model, its version, the instance and its device; on
    each GPU an instance has the same name.
    """
    told = []
    for (provider, operator), nodes in placement(session).items():
        metric = family.Metric(labels={**labels, "provider": provider, "operator": operator})
        metric.set(nodes)
        told.append(metric)
    return told
