"""tldeploy bench"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.show import device_option, force_option, json_option, recipe_argument
from tldeploy.errors import QualityError, UsageError

if TYPE_CHECKING:
    from tldeploy.benchmarking.comparison import Comparison
    from tldeploy.benchmarking.gate import Judged
    from tldeploy.devices import Device


@click.command("bench")
@recipe_argument
@click.option("--against", metavar="FILE", help="An older report.json to compare with.")
@click.option("--fail-on", metavar="CONDITIONS", help="What must not be worse than there, e.g. p99+10%,accuracy-0.5pt.")
@click.option("--any-machine", is_flag=True, help="Compare timings although the machines differ.")
@device_option("Where PyTorch and onnxruntime compute, instead of the recipe's bench.device.")
@force_option
@json_option
def command(
    recipe: str,
    against: str | None,
    fail_on: str | None,
    any_machine: bool,
    device: Device | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure every engine on the held-out rows, in one interleaved run: latency, throughput and the task metric.

    PyTorch, onnxruntime with each variant, and Triton over HTTP and gRPC. Writes report.html, .md and .json.

    With --against also writes comparison.html and .md, both runs side by side; with --fail-on it exits with 8 if the
    engine that the report speaks of got worse, by more than allowed and surely (by the whole interval; those of all
    conditions hold together at 95 %): p50, p90, p95, p99, p99.9 and throughput in %, accuracy in points.

    \b
    Examples:
      tldeploy bench models/review-sentiment
      tldeploy bench models/review-sentiment --force --json | tail -n 1
      tldeploy bench models/review-sentiment --device cuda
      tldeploy bench models/review-sentiment --against recorded.json --fail-on p99+10%,accuracy-0.5pt
    """
    from tldeploy import pipeline
    from tldeploy.benchmarking.remarks import remarks, render_server
    from tldeploy.benchmarking.report import HOW_TO_READ, headline, render_table, weakest_class

    if fail_on is not None and against is None:
        fix = "give both: --against FILE --fail-on p99+10%,accuracy-0.5pt"
        raise UsageError("compare with an older report", "--fail-on is there and --against is missing", fix)
    compared: Comparison | None = None
    judged: list[Judged] = []
    if against is not None:
        outcome, compared, judged = pipeline.gate(recipe, against, fail_on, force, any_machine, device=device)
    else:
        outcome = pipeline.bench(recipe, force, device=device)
    report = pipeline.report(outcome)
    if as_json:
        found = {"engines": report["engines"], "chosen": report["chosen"], "noise": report["noise"]}
        found |= {"skipped": outcome.skipped, "comparison": compared and compared.as_json()}
        show.print_json({**found, "conditions": fail_on and [condition.as_json() for condition in judged]})
    else:
        print(f"{render_table(report)}\n{HOW_TO_READ}\n")
        print("\n".join([*filter(None, [render_server(report)]), *remarks(report)]))
        print(f"\n{headline(report)}\n{weakest_class(report)}")
        print(f"report: {outcome.folder.parent / 'report.html'}")
        if compared:
            print(f"\n{show.comparison(compared)}\ncomparison: {outcome.folder.parent / 'comparison.html'}")
        if judged:
            print(f"\nagainst {against}, at 95 %:\n{show.conditions(judged)}")
    if any(condition.state == "failed" for condition in judged):
        raise click.exceptions.Exit(QualityError.exit_code)
