"""A canary beside the stable version, as the metrics of running servers tell it.

split_step.py counts; here the counts of all servers are added up and given intervals: Wilson's for the share of equal
labels, and, for the difference in latency, the normal one of a mean of pairs: each pair is one request that both were
asked at the same time.
"""

from __future__ import annotations

import http.client
import math
import re
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tldeploy.errors import ServerError
from tldeploy.measuring.statistics import CONFIDENCE, Estimate
from tldeploy.triton import running
from tldeploy.triton.canary.parts import Canary
from tldeploy.triton.running import ANSWERS_WITHIN_S

_METRIC = re.compile(r"tldeploy_canary_(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
NORMAL_95 = 1.96

Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Comparison:
    """What the canary's requests came to.

    asked: how many. same, other: both answered, with equal or other labels. failed: the canary alone; the stable
    version's answer was given. refused: by both. agreement: same among both answered. drift: mean over these of the
    largest difference of a probability. stable_ms, canary_ms: mean latencies; lag_ms: their difference. None where
    there is nothing to tell it from.
    """

    canary: Canary
    same: int
    other: int
    failed: int
    refused: int
    agreement: Estimate | None
    drift: float | None
    stable_ms: float | None
    canary_ms: float | None
    lag_ms: Estimate | None

    @property
    def asked(self) -> int:
        return self.same + self.other + self.failed + self.refused

    def as_json(self) -> dict[str, Any]:
        estimates = {"agreement": self.agreement, "lag_ms": self.lag_ms}
        plain = {name: value for name, value in vars(self).items() if name not in {"canary", *estimates}}
        return (
            vars(self.canary)
            | {"asked": self.asked}
            | plain
            | {name: found and found.as_json() for name, found in estimates.items()}
        )


def read_metrics(repository: Path, others: Sequence[str] = ()) -> list[str]:
    """The metrics of every `tldeploy serve` on this machine that serves the repository, and of other servers by URL.

    Raises ServerError for one that cannot be read.
    """
    here = [f"http://{server.metrics}/metrics" for server in running.live(repository.resolve())]
    return [_fetch(url) for url in (*here, *others)]


def _fetch(url: str) -> str:
    asked, fix = f"read the metrics at {url}", "give the URL of a server's metrics, such as http://host:8002/metrics"
    if not url.startswith(("http://", "https://")):
        raise ServerError(asked, "it does not begin with http:// or https://", fix)
    try:
        with urllib.request.urlopen(url, timeout=ANSWERS_WITHIN_S) as answer:
            text: str = answer.read().decode("utf-8")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServerError(asked, str(error), fix) from error
    return text


def compare(canary: Canary, metrics: Iterable[str]) -> Comparison:
    """metrics: what each running server gives at /metrics, in Prometheus' text form."""
    samples: Counter[Sample] = Counter()
    for text in metrics:
        samples.update(_samples(text))
    about = {"model": canary.name, "tag": canary.tag}

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset((about | labels).items())]

    counts = {found: int(value("requests_total", found=found)) for found in ("same", "other", "failed", "refused")}
    pairs = counts["same"] + counts["other"]
    if not pairs:
        return Comparison(canary, **counts, agreement=None, drift=None, stable_ms=None, canary_ms=None, lag_ms=None)
    stable_s, canary_s = value("seconds_total", arm="stable"), value("seconds_total", arm="canary")
    return Comparison(
        canary,
        **counts,
        agreement=_share(counts["same"], pairs),
        drift=value("drift_total") / pairs,
        stable_ms=1000 * stable_s / pairs,
        canary_ms=1000 * canary_s / pairs,
        lag_ms=_mean_ms(value("lag_seconds"), value("lag_seconds_squared"), pairs),
    )


def _samples(text: str) -> Mapping[Sample, float]:
    found = _METRIC.finditer(text)
    return {(match["name"], frozenset(_LABEL.findall(match["labels"]))): float(match["value"]) for match in found}


def _share(part: int, whole: int) -> Estimate:
    from scipy.stats import binomtest

    interval = binomtest(part, whole).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(part / whole, float(interval.low), float(interval.high))


def _mean_ms(total_s: float, squares: float, count: int) -> Estimate | None:
    """The mean of differences, from their sum and their sum of squares; None for a single one."""
    if count < 2:
        return None
    mean = total_s / count
    error = math.sqrt(max(0.0, squares - count * mean**2) / (count - 1) / count)
    return Estimate(1000 * mean, 1000 * (mean - NORMAL_95 * error), 1000 * (mean + NORMAL_95 * error))
