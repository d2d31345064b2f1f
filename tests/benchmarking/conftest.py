"""One measured job, which every test of the report and its page reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarking.job import HASHES, write_job
from tests.engine import Engine
from tests.measuring.virtual import Queue, queues
from tldeploy import recipe
from tldeploy.benchmarking.bench import bench
from tldeploy.benchmarking.report import Report
from tldeploy.measuring.load.generator import Round
from tldeploy.measuring.profiling import Placed
from tldeploy.runtime.triton.statistics import Counted

HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Job:
    folder: Path
    report: Report
    page: str


class Counting(Engine):
    """A served engine whose server's counts grow from one reading to the next: 100 requests in two steps."""

    model, steps = "job", ("job.tokenize", "job.graph")
    provider = "Triton 2.51.0, onnxruntime"
    placement = (
        Placed("CUDAExecutionProvider", {"MatMul": 6, "Softmax": 4}),
        Placed("CPUExecutionProvider", {"Shape": 2, "Gather": 1, "Concat": 1, "Slice": 1, "Cast": 1, "Range": 1}),
    )

    def statistics(self) -> dict[str, Counted]:
        self.readings = getattr(self, "readings", 0) + 1
        ms = 100_000_000 * self.readings  # of 100 requests, 1 ms each
        counts = (100 * self.readings, 100 * self.readings)
        return {
            "job": Counted(*counts, 0, ms, 0, 0, 0, 0),
            "job.tokenize": Counted(*counts, 100 * self.readings, 2 * ms // 5, ms // 10, 0, ms // 4, ms // 20),
            "job.graph": Counted(*counts, 50 * self.readings, 3 * ms // 5, ms // 5, ms // 20, ms // 4, 0),
        }


class Patient(Queue):
    """As many requests as p99 takes, in time that passes for no one."""

    def closed_loop(self, clients: int, seconds: float) -> Round:
        return super().closed_loop(clients, 100 * seconds)


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
        Counting("triton http", quantized, lambda number: 0.002),
    ]
    scenarios = ["multi-stream", "offline", "server"]
    runners[1].provider = "CPUExecutionProvider"
    settings = recipe.Bench.model_validate(
        {"concurrency": [1, 4], "seconds": 0.03, "scenarios": scenarios, "rates": [40, 490], "tokens": [1]}
    )
    took = np.random.default_rng(0).exponential(0.002, 100_000)
    with pytest.MonkeyPatch.context() as patch:
        # The load on the last one is by the law of a queue: 2 ms each, on average.
        for room in ("scenarios.closed", "scenarios.open", "parts"):
            patch.setattr(f"tldeploy.measuring.{room}.generators", lambda runners, rows: queues({2: Patient(took)}))
        patch.setattr("tldeploy.measuring.parts.LAG_S", 0)
        patch.setattr("tldeploy.measuring.scenarios.open.trial_seconds", lambda rate, seconds: 4000 / rate)
        bench(settings, "job", tuned, exported, runners, out=folder / "bench", inputs="", parents=HASHES)
    report: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return Job(folder, report, (folder / "report.html").read_text(encoding="utf-8"))
