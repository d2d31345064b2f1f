from __future__ import annotations

import math
import random

import pytest

from tldeploy.triton.canary.comparison import OF, compare
from tldeploy.triton.canary.parts import Canary

CANARY = Canary("tiny", stable=3, tag="abc", share=0.1)


Pair = tuple[float, float, bool]


def metrics(blocks: list[list[Pair]], tag: str = "abc", failed: int = 0) -> str:
    """What a server says whose canary was asked in these pairs, by stretches of time: seconds of both, equal labels."""
    pairs = [pair for block in blocks for pair in block]
    about = f'model="tiny",tag="{tag}"'
    counts = {"same": sum(same for *_, same in pairs), "other": sum(not same for *_, same in pairs), "failed": failed}
    lines = [f'tldeploy_canary_requests_total{{found="{found}",{about}}} {count}' for found, count in counts.items()]
    sums = dict.fromkeys(OF, 0.0)
    for block in blocks:
        of = {"pairs": len(block), "same": sum(same for *_, same in block), "lag": sum(c - s for s, c, _ in block)}
        for name in OF:
            sums[name] += math.prod(of[part] for part in name.split("*"))
    lines += [f'tldeploy_canary_block_sums{{{about},of="{name}"}} {value}' for name, value in sums.items()]
    lines += [
        f"tldeploy_canary_blocks_total{{{about}}} {len(blocks)}",
        f"tldeploy_canary_drift_total{{{about}}} {0.02 * len(pairs)}",
        f'tldeploy_canary_seconds_total{{arm="stable",{about}}} {sum(stable for stable, _, _ in pairs)}',
        f'tldeploy_canary_seconds_total{{arm="canary",{about}}} {sum(canary for _, canary, _ in pairs)}',
        f"tldeploy_canary_lag_seconds{{{about}}} {sums['lag']}",
        'nv_inference_count{model="tiny",version="4"} 7',
    ]
    return "\n".join(lines)


def drawn(seed: int, blocks: int = 20) -> list[list[Pair]]:
    """Stretches of time with a state of their own, which moves latencies and labels of all their pairs."""
    draw = random.Random(seed)
    made = []
    for _ in range(blocks):
        drift, agreement = draw.gauss(0.0005, 0.0003), min(1, max(0, draw.gauss(0.8, 0.1)))
        count = draw.randint(5, 40)
        stable = [draw.uniform(0.005, 0.020) for _ in range(count)]
        made.append([(each, each + draw.gauss(drift, 0.001), draw.random() < agreement) for each in stable])
    return made


def test_what_several_servers_counted_is_added_up() -> None:
    one, other = [[(0.010, 0.012, True)]], [[(0.020, 0.020, False)] * 3]
    found = compare(CANARY, [metrics(one, failed=2), metrics(other)])
    assert (found.asked, found.same, found.other, found.failed, found.refused) == (6, 1, 3, 2, 0)
    assert found.agreement == 0.25
    assert found.drift == pytest.approx(0.02)
    assert (found.stable_ms, found.canary_ms) == (pytest.approx(17.5), pytest.approx(18.0))
    assert found.lag_ms == pytest.approx(0.5)
    assert (found.agreement_interval, found.lag_interval_ms) == (None, None)


def test_counts_of_an_earlier_canary_are_left_out() -> None:
    assert compare(CANARY, [metrics([[(0.01, 0.01, True)]], tag="old")]).asked == 0


def test_without_requests_nothing_is_claimed() -> None:
    found = compare(CANARY, [])
    assert (found.asked, found.agreement, found.lag_ms, found.stable_ms) == (0, None, None, None)


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """About 95 of 100, although neighbouring pairs are alike; outside of these bounds by chance once in a thousand."""
    runs = [compare(CANARY, [metrics(drawn(seed))]) for seed in range(400)]
    agreed = sum(low <= 0.8 <= high for run in runs for low, high in [run.agreement_interval or (1, 0)])
    lagged = sum(low <= 0.5 <= high for run in runs for low, high in [run.lag_interval_ms or (1, 0)])
    assert 364 <= agreed <= 394
    assert 364 <= lagged <= 394
