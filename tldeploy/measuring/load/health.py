"""Whether the generator kept up with the load that it was to make: if not, figures are its own, not the server's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tldeploy.measuring.load.sending import Sent

# Of one core: the generator is one thread of Python, which has nothing left a little above this.
MOST_CPU = 0.8
# Of the same percentile of latency: how much of it may be that the request was sent late.
MOST_LATE = 0.1
SHARES = (0.5, 0.99)


@dataclass(frozen=True)
class Health:
    """cpu_share: of one core, while the load ran. late_ms: p50 and p99 of how late requests were sent; None in a closed
    loop, where nothing is due. kept_up: neither was over its threshold."""

    cpu_share: float
    late_ms: tuple[float, float] | None
    kept_up: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def health(sent: Sent, cpu_s: float) -> Health:
    """Judge one round of load that took so many seconds of the generator's CPU."""
    cpu_share = cpu_s / sent.elapsed_s
    if sent.due is sent.sent:
        return Health(cpu_share, None, cpu_share <= MOST_CPU)
    late, latency = _percentiles(sent.late_ms), _percentiles(sent.latency_ms)
    in_time = all(behind <= MOST_LATE * whole for behind, whole in zip(late, latency, strict=True))
    return Health(cpu_share, (late[0], late[1]), cpu_share <= MOST_CPU and in_time)


def worst(found: Sequence[Health]) -> Health:
    """Of several rounds the largest shares and delays."""
    late = [part.late_ms for part in found if part.late_ms is not None]
    most = (max(first for first, _ in late), max(second for _, second in late)) if late else None
    return Health(max(part.cpu_share for part in found), most, all(part.kept_up for part in found))


def _percentiles(values: Any) -> list[float]:
    found: list[float] = np.quantile(values, SHARES, method="inverted_cdf").tolist()
    return found
