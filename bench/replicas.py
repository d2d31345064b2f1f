"""Write bench/README.md's table of replicas from the recorded result; with --check only say whether they match.

.venv/bin/python bench/replicas.py [--check]

The figures are those of `tldeploy capacity models/review-sentiment --p99 50ms --cost-per-hour 0.10`, had the recorded
report been the last of that model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from readme import RECORDED, markdown

from tldeploy.benchmarking.capacity import footing, plan
from tldeploy.benchmarking.older import read_older
from tldeploy.cli.capacity import RATES

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- replicas: bench/replicas.py -->\n", "<!-- end of replicas -->\n"
BOUND_MS, COST_PER_HOUR = 50.0, 0.10


def table() -> str:
    found = footing(read_older(RECORDED).report, BOUND_MS)
    rows = [
        [
            f"{planned.rate_per_s:,.0f}",
            f"{planned.replicas:,}",
            f"{planned.utilisation:.0%}",
            "-" if planned.wait_ms is None else f"{planned.wait_ms:.2f}",
            f"{planned.utilisation_one_lost:.0%}",
            "-" if planned.wait_ms_one_lost is None else f"{planned.wait_ms_one_lost:.2f}",
            f"{planned.cost_per_million:.2f}",
        ]
        for planned in (plan(found, rate, COST_PER_HOUR) for rate in RATES)
    ]
    head = ["requests/s", "replicas", "busy", "wait ms", "one lost: busy", "wait ms", "cost per million"]
    about = (
        f"{found.engine}, p99 within {found.bound_ms:g} ms, {found.rate_per_s:.0f} requests a second a replica "
        f"({found.scenario}, {found.level}), {COST_PER_HOUR:.2f} an hour each:"
    )
    return f"{about}\n\n{markdown(head, rows)}\n"


def main(check: bool) -> int:
    before = README.read_text(encoding="utf-8")
    start, end = before.index(BEGIN) + len(BEGIN), before.index(END)
    after = before[:start] + table() + before[end:]
    if check and before != after:
        print("bench/README.md does not show the recorded figures; run python bench/replicas.py", file=sys.stderr)
        return 1
    if not check:
        README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
