"""The flags of `tritonserver` that follow from what is published: recipes ask for them, and a server has one of each.

Memory for caches adds up; of a resource the server has the most that any recipe says; the machine's figures are taken
as often as the most impatient recipe wants; and traces go to one place, so that recipes must agree on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tldeploy.errors import UsageError
from tldeploy.recipe import Deploy
from tldeploy.triton.options import MIB
from tldeploy.triton.repository import Publication


def server_options(publications: Sequence[Publication], traced: bool = True) -> list[str]:
    """Flags for a server of these models; none where their recipes ask for nothing.

    traced: False for a server that only checks or measures them: its requests are nobody's, and a cache would be
    what is measured.

    Raises UsageError when two of them want their traces in different places, or at different rates.
    """
    asked = {each.name: Deploy.model_validate(each.manifest.details["settings"]) for each in publications}
    every = list(asked.values())
    cache, tracing = (_cache(every), _tracing(asked)) if traced else ([], [])
    return [*cache, *_rate_limit(every), *_metrics(every), *tracing]


def _cache(every: Sequence[Deploy]) -> list[str]:
    size = MIB * sum(settings.cache_mb for settings in every)
    return [f"--cache-config=local,size={size}"] if size else []


def _rate_limit(every: Sequence[Deploy]) -> list[str]:
    limits = [settings.rate_limit for settings in every if settings.rate_limit is not None]
    named = sorted({name for limit in limits for name in limit.available})
    said = [limit.resources | limit.available for limit in limits]
    flags = [f"--rate-limit-resource={name}:{max(each.get(name, 0) for each in said)}" for name in named]
    return ["--rate-limit=execution_count", *flags] if limits else []


def _metrics(every: Sequence[Deploy]) -> list[str]:
    flags = []
    if any(settings.metrics.latency_summaries for settings in every):
        flags.append("--metrics-config=summary_latencies=true")
    if intervals := [each for settings in every if (each := settings.metrics.interval_ms) is not None]:
        flags.append(f"--metrics-interval-ms={min(intervals)}")
    return flags


def _tracing(asked: dict[str, Deploy]) -> list[str]:
    wanted = {name: settings.tracing for name, settings in asked.items() if settings.tracing is not None}
    if not wanted:
        return []
    (first, tracing), *others = wanted.items()
    if differing := next((name for name, other in others if other != tracing), None):
        found = f"{first} and {differing} want their requests traced otherwise, and a server has one way for all"
        fix = "make `deploy.tracing` of both recipes the same, and deploy again"
        raise UsageError("serve these models together", found, fix)
    if tracing.url is None:
        place = [f"triton,file={tracing.file}"]
    else:
        place = ["mode=opentelemetry", f"opentelemetry,url={tracing.url}"]
    return [f"--trace-config={each}" for each in (*place, f"rate={tracing.rate}", "level=TIMESTAMPS")]
