"""What a server counts of each of its models since it was loaded: requests, rows, runs, and where the time went.

Of a model whose steps are models, Triton times the whole only, and each step for itself. A request that is merged with
others is charged the whole run. The counts lag behind the replies by some 100 ms.
Source: Triton's statistics extension, docs/protocol/extension_statistics.md of its server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

PARTS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Counted:
    """requests: those that were answered. rows: of them. runs: of the model, one for all requests that were merged.

    whole_ns, and queue_ns to output_ns: summed over requests.
    """

    requests: int = 0
    rows: int = 0
    runs: int = 0
    whole_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Counted:
        """described: one version of a model, as the server answers; gRPC leaves zeros out and has numbers as texts."""
        spent: Mapping[str, Any] = described.get("inference_stats", {})
        counts = (int(described.get(name, 0)) for name in ("inference_count", "execution_count"))
        times = (int(spent.get(part, {}).get("ns", 0)) for part in PARTS)
        return cls(int(spent.get("success", {}).get("count", 0)), *counts, *times)

    def __add__(self, other: Counted) -> Counted:
        return Counted(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Counted) -> Counted:
        return Counted(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def counted(answer: Mapping[str, Any]) -> dict[str, Counted]:
    """By model, all of its versions together."""
    found: dict[str, Counted] = {}
    for described in answer.get("model_stats", []):
        name = described["name"]
        found[name] = found.get(name, Counted()) + Counted.of(described)
    return found
