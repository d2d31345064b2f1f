"""How often the regression gate fails by mistake, and how often it finds a real slowing, on samples of a known law.

Pairs of reports are simulated: log-normal latencies (their logarithm has a standard deviation of 0.3) in blocks that
drift by 2 %, three rounds of the closed loop that differ by 1 %, and answers of which a fifth are wrong. The second of
a pair is as fast as the first, or slower; `judge` says what becomes of the conditions. What differs between two runs of
a machine and not within one is not simulated: where there is such, the gate fails more often by mistake.

    python -m bench.gate bench/results
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.figures.gate import ANY, page
from tests.benchmarking.simulated import simulated
from tldeploy.artifacts import write_file
from tldeploy.benchmarking.gate import judge, parse

RUNS = 200
ROWS = (640, 1854, 7416)
SLOWER = (1.0, 1.1, 1.2, 1.3)
STRICT = "p50+0%,p99+0%,throughput-0%,accuracy-0pt"
USUAL = "p50+5%,p99+10%,throughput-5%,accuracy-0.5pt"


def failed(text: str, rows: int, slower: float) -> dict[str, int]:
    """Of RUNS runs how many failed, by condition, and by any of them."""
    counts = dict.fromkeys([condition.text for condition in parse(text)] + [ANY], 0)
    for seed in range(RUNS):
        old, new = simulated(seed, rows=rows), simulated(seed + RUNS, slower=slower, rows=rows)
        found = [judged.condition.text for judged in judge(parse(text), old, new) if judged.state == "failed"]
        for condition in [*found, *([ANY] if found else [])]:
            counts[condition] += 1
    return counts


def main(out: Path) -> None:
    asked = [(STRICT, SLOWER[:1]), (USUAL, SLOWER)]
    results = [
        {"text": text, "rows": rows, "slower": slower, "failed": failed(text, rows, slower)}
        for text, slowings in asked
        for rows in ROWS
        for slower in slowings
    ]
    report = {"runs": RUNS, "results": results}
    write_file(out / "gate.json", json.dumps(report, indent=1) + "\n")
    write_file(out / "gate.md", page(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
