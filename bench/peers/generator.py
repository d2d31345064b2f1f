"""Our load generator against Triton's own, perf_analyzer: on the same server they must find the same.

1. The export is served as `tldeploy deploy` publishes it. perf_analyzer gets the same rows, in a file of its format.
2. In each of ROUNDS rounds, with each number of CLIENTS, over HTTP and in closed loop, both make load in an order drawn
   anew, and ours once more as if it were a third: how far apart ours is from itself is the noise.
3. Rates are compared within a round; percentiles are of all rounds together, from the times of every request that
   either recorded. They agree when the interval of the ratio holds 1, or the ratio is no farther from it than ours
   against itself may be.

It is the part `generator` of suite.py; perf_analyzer.sh lays the program out.
"""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.tables import AGAIN, OURS, THEIRS
from tldeploy.artifacts import write_file
from tldeploy.data.rows import Rows
from tldeploy.measuring.load.generator import Generator
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

ROUNDS, SECONDS = 5, 1.5
REQUESTS = {1: 180, 4: 240, 16: 320}


def measure(models: Path, program: Path, folder: Path) -> dict[str, Any]:
    """By number of clients and generator: the rate of every round, and its latencies in ms."""
    review = models / "review-sentiment"
    held_out = Rows.load(review / "tuned" / "test.jsonl").inputs
    rows = [held_out[at] for at in np.random.default_rng(0).permutation(len(held_out))]
    publish(review / "onnx", folder / "repository", "m", Deploy())
    write_file(folder / "rows.json", json.dumps({"data": [{"text": [row]} for row in rows]}))
    draw = np.random.default_rng(0)
    found: dict[str, Any] = {}
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with (
        Server(folder / "repository", **ports, trusted=True) as server,
        Client(server.http_url, model="m") as client,
        Generator(client, rows) as generator,
    ):
        for clients, requests in REQUESTS.items():
            kept = found[str(clients)] = {name: {"rate": [], "ms": []} for name in (OURS, AGAIN, THEIRS)}
            generator.closed_loop(clients, SECONDS)  # warms up
            for _ in range(ROUNDS):
                for name in draw.permutation(list(kept)).tolist():
                    if name == THEIRS:
                        rate, waits = perf_analyzer(program, server.http_url, clients, requests, folder)
                    else:
                        sent = generator.closed_loop(clients, SECONDS).sent
                        rate, waits = len(sent.sent) / sent.elapsed_s, sent.latency_ms
                    kept[name]["rate"].append(round(rate, 3))
                    kept[name]["ms"].append(waits.round(2).tolist())
    return found


def perf_analyzer(
    program: Path, url: str, clients: int, requests: int, folder: Path
) -> tuple[float, NDArray[np.float64]]:
    """Requests a second, and the latency of each, in ms."""
    summary, raw = folder / "summary.csv", folder / "raw.json"
    load = ["--concurrency-range", str(clients), "--request-count", str(requests), "--input-data", "rows.json"]
    written = ["-f", summary.name, "--profile-export-file", raw.name]
    command = [str(program), "-m", "m", "-u", url, "-i", "http", *load, *written]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return rate_of(summary.read_text(encoding="utf-8")), latencies_ms(raw.read_text(encoding="utf-8"))


def rate_of(summary: str) -> float:
    """Inferences a second, out of the CSV of `perf_analyzer -f` with one number of clients."""
    (line,) = csv.DictReader(summary.splitlines())
    return float(line["Inferences/Second"])


def latencies_ms(raw: str) -> NDArray[np.float64]:
    """Of every request, out of the JSON of `perf_analyzer --profile-export-file`; its times are in ns."""
    requests = [request for run in json.loads(raw)["experiments"] for request in run["requests"]]
    return np.array([(request["response_timestamps"][-1] - request["timestamp"]) / 1e6 for request in requests])
