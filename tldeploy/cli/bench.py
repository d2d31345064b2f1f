"""tldeploy bench"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.show import force_option, json_option, recipe_argument


@click.command("bench")
@recipe_argument
@force_option
@json_option
def command(recipe: str, force: bool, as_json: bool) -> None:
    """Measure every engine on the held-out rows, in one interleaved run: latency, throughput and the task metric.

    PyTorch, onnxruntime with each variant, and Triton over HTTP and gRPC. Writes report.html and report.json.

    \b
    Examples:
      tldeploy bench models/review-sentiment
      tldeploy bench models/review-sentiment --force --json | tail -n 1
    """
    from tldeploy import pipeline
    from tldeploy.benchmarking.remarks import remarks, render_server
    from tldeploy.benchmarking.report import HOW_TO_READ, headline, render_table, weakest_class

    outcome = pipeline.bench(recipe, force)
    report = pipeline.report(outcome)
    if as_json:
        show.print_json({"engines": report["engines"], "chosen": report["chosen"], "skipped": outcome.skipped})
    else:
        print(f"{render_table(report)}\n{HOW_TO_READ}\n")
        print("\n".join([*filter(None, [render_server(report)]), *remarks(report)]))
        print(f"\n{headline(report)}\n{weakest_class(report)}")
        print(f"report: {outcome.folder.parent / 'report.html'}")
