"""One measured job, which every test of the report and its page reads."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from tests.benchmarking.job import HASHES, write_job
from tests.engine import Engine
from tests.measuring.virtual import Queue, queues
from tldeploy import recipe
from tldeploy.benchmarking.bench import bench
from tldeploy.benchmarking.report import Report

HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Job:
    report: Report
    page: str


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """60 rows in three classes; one label is markup. int8 is wrong on every tenth row but the first."""
    folder = tmp_path_factory.mktemp("job")
    tuned, exported = write_job(folder, rows=60, labels=["negative", HOSTILE, "positive & more"])

    def quantized(number: int) -> int:
        return (number + (number % 10 == 9)) % 3

    runners = [
        Engine("torch eager", lambda number: number % 3, lambda number: 0.004),
        Engine("onnxruntime int8-dynamic", quantized, lambda number: 0.001),
        Engine("triton http", quantized, lambda number: 0.002),
    ]
    scenarios = ["multi-stream", "offline", "server"]
    settings = recipe.Bench.model_validate(
        {"concurrency": [1, 4], "seconds": 0.03, "scenarios": scenarios, "rates": [40, 490], "tokens": [1]}
    )
    took = np.random.default_rng(0).exponential(0.002, 100_000)
    with pytest.MonkeyPatch.context() as patch:
        # The load on the last one is by the law of a queue: 2 ms each, on average.
        for scenario in ("closed", "open"):
            patch.setattr(
                f"tldeploy.measuring.scenarios.{scenario}.generators", lambda runners, rows: queues({2: Queue(took)})
            )
        patch.setattr("tldeploy.measuring.scenarios.open.trial_seconds", lambda rate, seconds: 4000 / rate)
        bench(settings, "job", tuned, exported, runners, out=folder / "bench", inputs="", parents=HASHES)
    report: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return Job(report, (folder / "report.html").read_text(encoding="utf-8"))
