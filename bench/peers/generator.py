"""Our load generator against Triton's own, perf_analyzer: on the same server they must find the same.

1. The export is served as `tldeploy deploy` publishes it. perf_analyzer gets the same rows, in a file of its format.
2. In each of ROUNDS rounds, over each protocol, with each number of clients and in closed loop, both make load in an
   order drawn anew, and ours once more as if it were a third: how far apart ours is from itself is the noise.
3. Rates are compared within a round; percentiles are of all rounds together, from the times of every request that
   either recorded. They agree when the interval of the ratio holds 1, or the ratio is no farther from it than ours
   against itself may be.

It is the part `generator` of suite.py; perf_analyzer.sh lays the program out.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.figures.peers import AGAIN, OURS, THEIRS
from tldeploy.artifacts import write_file
from tldeploy.data.rows import Rows
from tldeploy.measuring.load.generator import Generator
from tldeploy.recipe import Deploy
from tldeploy.runtime.triton import Client
from tldeploy.triton.repository import publish
from tldeploy.triton.server import Server

PROTOCOLS = ("http", "grpc")
ROUNDS, SECONDS = 9, 1.0
REQUESTS = {1: 120, 4: 160, 16: 240}
WITHIN_S, ATTEMPTS = 20.0, 3


def measure(models: Path, program: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """By protocol, number of clients and generator: the rate of every round, and its latencies in ms; anew after each
    round."""
    review = models / "review-sentiment"
    held_out = Rows.load(review / "tuned" / "test.jsonl").inputs
    rows = [held_out[at] for at in np.random.default_rng(0).permutation(len(held_out))]
    publish(review / "onnx", folder / "repository", "m", Deploy())
    write_file(folder / "rows.json", json.dumps({"data": [{"text": [row]} for row in rows]}))
    draw = np.random.default_rng(0)
    found: dict[str, Any] = {
        protocol: {
            str(clients): {name: {"rate": [], "ms": []} for name in (OURS, AGAIN, THEIRS)} for clients in REQUESTS
        }
        for protocol in PROTOCOLS
    }
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with Server(folder / "repository", **ports, trusted=True) as server, ExitStack() as stack:
        urls = {"http": server.http_url, "grpc": server.grpc_url}
        generators = {}
        for protocol, url in urls.items():
            client = stack.enter_context(Client(url, model="m", protocol=protocol))
            generators[protocol] = stack.enter_context(Generator(client, rows))
            generators[protocol].closed_loop(max(REQUESTS), SECONDS)  # warms up
        for _ in range(ROUNDS):
            for protocol, (clients, requests) in itertools.product(PROTOCOLS, REQUESTS.items()):
                kept = found[protocol][str(clients)]
                for name in draw.permutation(list(kept)).tolist():
                    if name == THEIRS:
                        rate, waits = perf_analyzer(program, urls[protocol], protocol, clients, requests, folder)
                    else:
                        sent = generators[protocol].closed_loop(clients, SECONDS).sent
                        rate, waits = len(sent.sent) / sent.elapsed_s, sent.latency_ms
                    kept[name]["rate"].append(round(rate, 3))
                    kept[name]["ms"].append(waits.round(2).tolist())
            yield found


def perf_analyzer(
    program: Path, url: str, protocol: str, clients: int, requests: int, folder: Path
) -> tuple[float, NDArray[np.float64]]:
    """Requests a second, and the latency of each, in ms.

    Both from the times that it recorded. The rate of its own summary is requests by the length of a window that ends
    with a whole second, however long before that the last answer came. Now and then it has sent all its requests and
    waits for ever: it is asked anew then, ATTEMPTS times in all.
    """
    raw = folder / "raw.json"
    asked = command(program, url, protocol, clients, requests, raw.name)
    for _ in range(ATTEMPTS):
        raw.unlink(missing_ok=True)  # it writes over none
        try:
            done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False, timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            print(f"perf_analyzer did not end within {WITHIN_S:g} s", file=sys.stderr)
            continue
        if done.returncode:
            raise SystemExit(f"{' '.join(asked)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return recorded(raw.read_text(encoding="utf-8"))
    raise SystemExit(f"{' '.join(asked)}\ndid not end within {WITHIN_S:g} s, {ATTEMPTS} times")


def command(program: Path, url: str, protocol: str, clients: int, requests: int, raw: str) -> list[str]:
    """So many clients in closed loop, the rows of rows.json, and so many requests in all."""
    load = ["--concurrency-range", str(clients), "--request-count", str(requests), "--input-data", "rows.json"]
    return [str(program), "-m", "m", "-u", url, "-i", protocol, *load, "--profile-export-file", raw]


def recorded(raw: str) -> tuple[float, NDArray[np.float64]]:
    """The rate a second and the latencies in ms, out of what `--profile-export-file` wrote, which is in ns."""
    requests = [request for run in json.loads(raw)["experiments"] for request in run["requests"]]
    sent = np.array([request["timestamp"] for request in requests])
    answered = np.array([request["response_timestamps"][-1] for request in requests])
    return 1e9 * len(requests) / float(answered.max() - sent.min()), (answered - sent) / 1e6
