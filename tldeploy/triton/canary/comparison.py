"""A canary beside the stable version, as the metrics of running servers tell it.

split_step.py counts; here the counts of all servers are added up. Each pair is one request that both were asked at the
same time. Intervals come from stretches of ten seconds, which unlike neighbouring requests are nearly independent: of a
ratio of sums over them (Cochran, Sampling Techniques, 1977, section 6.3), by Student's t.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tldeploy.measuring.statistics import CONFIDENCE
from tldeploy.triton import running
from tldeploy.triton.canary.parts import Canary
from tldeploy.triton.metrics import fetch, samples

METRICS = "tldeploy_canary_"
FOUND = ("same", "other", "failed", "refused")
OF = ("pairs", "same", "lag", "pairs*pairs", "same*same", "lag*lag", "same*pairs", "lag*pairs")
# Of fewer stretches of time the spread is not known well enough to speak of an interval.
FEWEST_BLOCKS = 6

Interval = tuple[float, float]
Counted = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Comparison:
    """What the canary's requests came to.

    asked: how many. same, other: both answered, with equal or other labels. failed: the canary alone; the stable
    version's answer was given. refused: by both. agreement: same among both answered. drift: mean over these of the
    largest difference of a probability. stable_ms, canary_ms: mean latencies; lag_ms: their difference. None where
    there is nothing to tell it from; intervals, at 95 %, take a minute of requests.
    """

    canary: Canary
    same: int
    other: int
    failed: int
    refused: int
    agreement: float | None = None
    agreement_interval: Interval | None = None
    drift: float | None = None
    stable_ms: float | None = None
    canary_ms: float | None = None
    lag_ms: float | None = None
    lag_interval_ms: Interval | None = None

    @property
    def asked(self) -> int:
        return self.same + self.other + self.failed + self.refused

    def as_json(self) -> dict[str, Any]:
        figures = {name: value for name, value in vars(self).items() if name != "canary"}
        return vars(self.canary) | {"asked": self.asked} | figures


def read_metrics(repository: Path, others: Sequence[str] = ()) -> list[str]:
    """The metrics of every `tldeploy serve` on this machine that serves the repository, and of other servers by URL.

    Raises ServerError for one that cannot be read.
    """
    here = [f"http://{server.metrics}/metrics" for server in running.live(repository.resolve())]
    return [fetch(url) for url in here] + [fetch(url, elsewhere=True) for url in others]


def compare(canary: Canary, metrics: Iterable[str]) -> Comparison:
    """metrics: what each running server gives at /metrics, in Prometheus' text form."""
    counts: Counter[Counted] = Counter()
    for text in metrics:
        counts.update({(name, frozenset(found.labels.items())): found.value for name, found in samples(text, METRICS)})
    about = {"model": canary.name, "tag": canary.tag}

    def value(name: str, **labels: str) -> float:
        return counts[name, frozenset((about | labels).items())]

    same, other, failed, refused = (int(value("requests_total", found=found)) for found in FOUND)
    pairs = same + other
    if not pairs:
        return Comparison(canary, same, other, failed, refused)
    sums, blocks = {of: value("block_sums", of=of) for of in OF}, int(value("blocks_total"))
    return Comparison(
        canary,
        same,
        other,
        failed,
        refused,
        agreement=same / pairs,
        agreement_interval=_interval("same", sums, blocks, 1),
        drift=value("drift_total") / pairs,
        stable_ms=1000 * value("seconds_total", arm="stable") / pairs,
        canary_ms=1000 * value("seconds_total", arm="canary") / pairs,
        lag_ms=1000 * value("lag_seconds") / pairs,
        lag_interval_ms=_interval("lag", sums, blocks, 1000),
    )


def _interval(what: str, sums: Mapping[str, float], blocks: int, scale: float) -> Interval | None:
    """Of a sum over the sum of pairs; None where the stretches of time are too few."""
    from scipy.stats import t

    if blocks < FEWEST_BLOCKS:
        return None
    ratio = sums[what] / sums["pairs"]
    squares = sums[f"{what}*{what}"] - 2 * ratio * sums[f"{what}*pairs"] + ratio**2 * sums["pairs*pairs"]
    error = math.sqrt(max(0.0, squares) * blocks / (blocks - 1)) / sums["pairs"]
    margin = float(t.ppf((1 + CONFIDENCE) / 2, blocks - 1)) * error
    return scale * (ratio - margin), scale * (ratio + margin)
