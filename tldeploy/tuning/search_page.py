"""search/report.html: what a search tried and what mattered, as one file that needs no network."""

from __future__ import annotations

import warnings
from html import escape
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

if TYPE_CHECKING:
    from tldeploy.tuning.study import Study

ENOUGH_FOR_IMPORTANCE = 4
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} – search</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
</style>
<script>{plotly}</script>
</head>
<body>
<h1>{name}: {count} trials</h1>
<p>{metric} on {rows} validation rows; no trial has seen a held-out row.</p>
{figures}
</body>
</html>
"""


def render_page(study: Study, name: str, metric: str, rows: int) -> str:
    """The whole page; the figures are Optuna's."""
    from plotly.offline import get_plotlyjs

    parts = [
        f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(text)}</p>\n"
        f"{figure.to_html(full_html=False, include_plotlyjs=False, div_id=f'plot-{at}')}\n</section>"
        for at, (title, text, figure) in enumerate(_figures(study, metric))
    ]
    return PAGE.format(
        name=escape(name),
        count=len(study.trials),
        metric=escape(metric.replace("_", " ")),
        rows=rows,
        plotly=get_plotlyjs(),
        figures="\n".join(parts),
    )


def _figures(study: Study, metric: str) -> list[tuple[str, str, Any]]:
    from optuna import visualization

    label = metric.replace("_", " ")
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    varied = len({trial.value for trial in complete}) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = [
            (
                "History",
                "Each trial in the order of its start; the line is the best so far.",
                visualization.plot_optimization_history(study.optuna, target_name=label),
            ),
            (
                "Every trial at once",
                "A line is a trial. Drag along an axis to see only the lines that cross it there.",
                visualization.plot_parallel_coordinate(study.optuna, target_name=label),
            ),
        ]
        if len(complete) >= ENOUGH_FOR_IMPORTANCE and varied:
            importances = visualization.plot_param_importances(study.optuna, target_name=label)
            text = "How much of the differences between trials each setting explains (fANOVA); rough for few trials."
            found.append(("What mattered", text, importances))
        if any(trial.intermediate_values for trial in study.trials):
            curves = visualization.plot_intermediate_values(study.optuna)
            found.append(("Epoch by epoch", "Lines that end early were pruned.", curves))
    return found
