"""How much of the distance to labels adaptation closes, out of adaptation.json."""

from __future__ import annotations

import statistics
from typing import Any

from .table import markdown

SOURCE_ONLY, CHOSEN, ORACLE = "source-only", "the label-free choice", "oracle"


def page(report: dict[str, Any]) -> str:
    """The whole of adaptation.md."""
    machine = report["environment"]
    lines = [
        "# Adaptation without labels, over seeds",
        "",
        "From labelled product reviews to other domains, by `models/tweet-sentiment/recipe.yaml`; written by",
        "`bench/adaptation.py`. Weighted F1 on held-out rows of the target, mean and, in brackets, lowest and highest",
        "over the seeds. Closed: the share of the distance from source-only to the oracle, of the means.",
        f"Measured on {machine['cpu']}, {machine['cores']} cores.",
    ]
    for target in dict.fromkeys(run["target"] for run in report["runs"]):
        lines += ["", f"## {target}", "", _table([run for run in report["runs"] if run["target"] == target])]
    return "\n".join(lines) + "\n"


def _table(runs: list[dict[str, Any]]) -> str:
    """A row for every candidate; each is compared with the same seeds' source-only and oracle."""
    values: dict[str, dict[int, float]] = {}
    scores: dict[str, list[float]] = {}
    for run in runs:
        for method, figures in run["candidates"].items():
            name = SOURCE_ONLY if method == run["source_only"] else method
            values.setdefault(name, {})[run["seed"]] = figures["test"]["value"]
            if "score" in figures:
                scores.setdefault(name, []).append(figures["score"])
        kept = run["candidates"][run["kept"]]["test"]["value"]
        if len(run["candidates"]) == min(len(other["candidates"]) for other in runs):
            values.setdefault(CHOSEN, {})[run["seed"]] = kept
    rows = []
    for name in [SOURCE_ONLY, *(n for n in values if n not in (SOURCE_ONLY, CHOSEN, ORACLE)), CHOSEN, ORACLE]:
        of = values[name]
        low, high = (statistics.fmean(values[end][seed] for seed in of) for end in (SOURCE_ONLY, ORACLE))
        mean = statistics.fmean(of.values())
        score = f"{statistics.fmean(scores[name]):.3f}" if name in scores else ""
        spread = f"{mean:.3f} [{min(of.values()):.3f}, {max(of.values()):.3f}]"
        rows.append([name, spread, f"{(mean - low) / (high - low):.0%}", ", ".join(map(str, sorted(of))), score])
    return markdown(["candidate", "weighted F1", "closed", "seeds", "label-free score"], rows)
