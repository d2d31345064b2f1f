"""Where a session spends its time, node by node, and on which execution provider: onnxruntime's own profile.

Its times are the host's. On the CPU that is what the nodes take; on a GPU it is what launching their kernels takes,
which nobody waits for there.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.errors import MachineError
from tldeploy.runtime.session import COMPUTE, Provider, open_session, running
from tldeploy.tasks.classification import Classification, Row, Tensors

KERNEL = "_kernel_time"
CPU: Provider = "CPUExecutionProvider"
PROFILED_ROWS = 16


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph as onnxruntime runs it, which is not always one of the file. ms: of the host, in a typical
    run."""

    name: str
    operator: str
    provider: str
    ms: float


@dataclass(frozen=True)
class Placed:
    """What of a graph is run by one execution provider. operators: how many nodes there are of each. share: of the
    host's time in the session, which on a GPU is that of launching; None where it was not taken."""

    provider: str
    operators: dict[str, int]
    share: float | None = None

    @property
    def nodes(self) -> int:
        return sum(self.operators.values())


def profile(
    graph: Path,
    batches: Sequence[Mapping[str, NDArray[Any]]],
    provider: Provider,
    optimized: Path | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> list[NodeTime]:
    """Every node that ran, in the order of the first run. optimized: where to write the graph as it is run.
    provider_options: see open_session.

    The first batch is run twice: what is allocated and prepared in a session's first run is not counted.

    Raises what `open_session` and `running` do, and MachineError that names the nodes if computation ran on the CPU
    where another provider was asked for; a session that is strict about its provider makes that impossible, and here is
    the proof.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        # In one file, weights of 2 GiB could not be written.
        weights = f"{optimized.name}.data"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(graph, provider, options, provider_options)
        with running(graph, provider):
            for batch in (batches[0], *batches):
                session.run(None, dict(batch))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    first = next(event for event in events if event["name"] == "model_run")
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL) and event["ts"] >= first["ts"] + first["dur"]
    ]
    took: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in kernels:
        about = event["args"]
        took[event["name"].removesuffix(KERNEL), about["op_name"], about["provider"]].append(event["dur"] / 1000)
    # The median, because one stall of the machine is longer than most nodes are; a node in a loop runs often in a run.
    nodes = [NodeTime(*node, median(times) * len(times) / len(batches)) for node, times in took.items()]
    refuse_strays(nodes, provider, graph.name)
    return nodes


def refuse_strays(nodes: Sequence[NodeTime], provider: Provider, model: str) -> None:
    """Raises MachineError for computation on the CPU, unless it is the provider that was asked for."""
    strays = [f"{node.name} ({node.operator})" for node in nodes if node.provider == CPU and node.operator in COMPUTE]
    if strays and provider != CPU:
        found = f"{', '.join(strays[:3])}{f' and {len(strays) - 3} more' if len(strays) > 3 else ''} ran on the CPU"
        raise MachineError(f"run {model} on {provider}", found, "leave this variant out, or use the CPU")


def sample(inputs: Sequence[Row], task: Classification) -> list[Tensors]:
    """Some of the rows, from everywhere among them, as batches of one."""
    taken = np.linspace(0, len(inputs) - 1, min(len(inputs), PROFILED_ROWS)).astype(int).tolist()
    return [task.encode([inputs[row]]) for row in taken]


def shares(nodes: Sequence[NodeTime], keys: Sequence[str]) -> dict[str, float]:
    """The share of the time that went to the nodes of each key, largest first; they add up to 1. keys: one a node."""
    spent: defaultdict[str, float] = defaultdict(float)
    for node, key in zip(nodes, keys, strict=True):
        spent[key] += node.ms
    total = sum(spent.values())
    return {key: ms / total for key, ms in sorted(spent.items(), key=lambda item: -item[1])}


def placed(nodes: Sequence[NodeTime]) -> list[Placed]:
    """By execution provider, the one that takes most of the host's time first."""
    operators: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for node in nodes:
        operators[node.provider][node.operator] += 1
    return [
        Placed(provider, dict(operators[provider].most_common()), share)
        for provider, share in provider_shares(nodes).items()
    ]


def provider_shares(nodes: Sequence[NodeTime]) -> dict[str, float]:
    """The share of the host's time for the nodes of each execution provider."""
    return shares(nodes, [node.provider for node in nodes])
