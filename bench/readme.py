"""Write the README's table of figures from the recorded result; with --check only say whether they match.

.venv/bin/python bench/readme.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "bench" / "results" / "epyc-avx2-2-cores" / "review-sentiment.json"
BEGIN, END = "<!-- figures: bench/readme.py -->\n", "<!-- end of figures -->\n"


def figures(report: dict[str, Any]) -> str:
    """The recorded run as Markdown: the machine, the scorecard and the engines."""
    machine = report["environment"]
    newest = machine["instructions"][-1] if machine["instructions"] else "plain x86_64"
    about = f"{machine['cpu']} ({newest}), {machine['cores']} cores; {report['rows']:,} held-out rows"
    return "\n\n".join([f"Measured on {about}:", variants(report), engines(report)]) + "\n"


def variants(report: dict[str, Any]) -> str:
    rows = [
        [
            entry["name"] + (" (chosen)" if entry["name"] == report["chosen"]["variant"] else ""),
            f"{entry['size_bytes'] / 1e6:.1f}",
            f"{entry['parity']['max_abs_diff']:.0e}",
            interval(entry["metric"]),
            f"{entry['drop']['points']:+.2f} [{entry['drop']['low']:+.2f}, {entry['drop']['high']:+.2f}]",
            spread(entry["speedup"]),
            spread(entry["throughput_speedup"]),
            f"{entry['load_ms']:.0f}",
            f"{entry['memory_mb']:.0f}",
        ]
        for entry in report["variants"]
    ]
    head = [
        "variant",
        "MB",
        "off PyTorch",
        "weighted F1, validation",
        "points lost",
        "times fp32",
        "in batches",
        "load ms",
        "RAM MB",
    ]
    return markdown(head, rows)


def engines(report: dict[str, Any]) -> str:
    levels = list(report["engines"][0]["throughput_per_s"])
    rows = [
        [
            engine["name"],
            *(f"{engine[f'p{share}_ms']:.1f}" for share in (50, 90, 99)),
            *(f"{engine['throughput_per_s'][level]:.0f}" for level in levels),
            interval(engine["metric"]),
            spread(engine["speedup"]),
        ]
        for engine in report["engines"]
    ]
    head = ["engine", "p50 ms", "p90", "p99", *(f"rows/s at {level}" for level in levels)]
    return markdown([*head, "weighted F1, held out", "times PyTorch"], rows)


def interval(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def spread(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def main(check: bool) -> int:
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    start, end = before.index(BEGIN) + len(BEGIN), before.index(END)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    after = before[:start] + figures(recorded) + before[end:]
    if check and before != after:
        print("README.md does not show the recorded figures; run python bench/readme.py", file=sys.stderr)
        return 1
    if not check:
        readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
