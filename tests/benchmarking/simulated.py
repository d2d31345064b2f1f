"""Reports of a law that is known, as far as the regression gate reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tldeploy.benchmarking import scenarios
from tldeploy.benchmarking.report import Report
from tldeploy.tasks.metrics import weighted_f1


def simulated(seed: int, slower: float = 1.0, wrong: float = 0.2, noise_floor: float = 0.0, rows: int = 800) -> Report:
    """A report of log-normal latencies in blocks that drift, and of answers that are wrong with a probability."""
    draw = np.random.default_rng(seed)
    block = np.arange(rows) // 16
    drift = draw.lognormal(0, 0.02, block[-1] + 1)[block]
    latency_ms = slower * 5 * draw.lognormal(0, 0.3, rows) * drift
    truth = np.arange(rows) % 3
    answers = np.where(draw.random(rows) < wrong, (truth + 1) % 3, truth)
    rounds = (200 / slower * draw.lognormal(0, 0.01, 3)).tolist()
    engine: dict[str, Any] = {
        "name": "triton http",
        **scenarios.latencies(latency_ms, block),
        "throughput_per_s": {"4": sum(rounds) / 3},
        "closed_loop": {"4": {"rounds_per_s": rounds}},
        "metric": weighted_f1(truth, answers, 3).as_json(),
    }
    machine = {"cpu": "AMD EPYC", "instructions": ["avx2"], "cores": 2, "gpus": []}
    noise = {"floor": noise_floor}
    return {"engines": [engine], "reported": {"engine": "triton http"}, "environment": machine, "noise": noise}
