"""What came back of spoilt requests, and how the server fared, out of fuzz.json."""

from __future__ import annotations

from typing import Any

from .table import markdown


def page(report: dict[str, Any]) -> str:
    """The whole of fuzz.md."""
    direct, gated = sorted(report["runs"], key=lambda run: bool(run["has_gate"]))
    left_out = ", ".join(name for name in gated["outcomes"] if name not in direct["outcomes"])
    about = f"Triton {report['server']}, a tiny text and a tiny image model"
    return f"{about}{f'; {left_out} through the gate only' if left_out else ''}.\n\n{_run(direct)}\n{_run(gated)}"


def _run(run: dict[str, Any]) -> str:
    """What held, and a row an attack."""
    memory = run["memory"]
    thirds = ", ".join(str(memory[f"{third}_third_mb"]) for third in ("first", "middle", "last"))
    facts = [
        f"{run['attacks']:,} attacks in {run['seconds']:g} s (seed {run['seed']})",
        f"the server died {len(run['deaths'])} times",
        f"workers were lost {len(run['workers_lost'])} times",
        f"golden answers {'WRONG' if run['wrong_answers'] else 'right'}",
        f"memory in thirds of the time {thirds} MB, slope {memory['slope_mb_per_minute']} MB a minute "
        f"({'flat' if memory['flat'] else 'NOT FLAT'})",
    ]
    rows = [
        [name, ", ".join(f"{key} {count:,}" for key, count in counts.items())]
        for name, counts in run["outcomes"].items()
    ]
    place = "Behind the gate" if run["has_gate"] else "Directly"
    return f"**{place}**: {'; '.join(facts)}.\n\n{markdown(['attack', 'what came back'], rows)}\n"
