"""tldeploy capacity"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.deploy import milliseconds
from tldeploy.cli.show import json_option, recipe_argument
from tldeploy.tables import aligned

RATES = (10.0, 1000.0, 100_000.0)


@click.command("capacity")
@recipe_argument
@click.option(
    "--rate", "rates", type=float, multiple=True, default=RATES, metavar="N", help="Requests a second; may be repeated."
)
@click.option(
    "--p99",
    "p99_ms",
    callback=milliseconds,
    metavar="DURATION",
    help="What p99 must not be above, such as 50ms; by default the bound that the bench measured.",
)
@click.option("--cost-per-hour", type=float, metavar="PRICE", help="Of one replica, in any currency.")
@json_option
def command(
    recipe: str, rates: tuple[float, ...], p99_ms: float | None, cost_per_hour: float | None, as_json: bool
) -> None:
    """Say how many replicas a traffic needs to keep a bound on p99, from the report of the last bench.

    Nothing is measured. Requests at random count where they were measured with the bound; otherwise 60 % of what the
    closed loop carried. One replica is added that may be lost. Exits with 8 where nothing measured keeps the bound.

    \b
    Examples:
      tldeploy capacity models/review-sentiment
      tldeploy capacity models/review-sentiment --rate 1000 --p99 50ms
      tldeploy capacity models/review-sentiment --rate 200 --rate 1000 --cost-per-hour 0.4 --json
    """
    from tldeploy import pipeline
    from tldeploy.benchmarking.report import per_second

    found = pipeline.capacity(recipe, rates, p99_ms=p99_ms, cost_per_hour=cost_per_hour)
    if as_json:
        show.print_json(found.as_json())
        return
    rows = [
        [
            f"{plan.rate_per_s:,.10g}",
            f"{plan.replicas:,}",
            f"{plan.utilisation:.0%}",
            _wait(plan.wait_ms),
            f"{plan.utilisation_one_lost:.0%}",
            _wait(plan.wait_ms_one_lost),
            *([] if plan.cost_per_million is None else [f"{plan.cost_per_million:.2f}"]),
        ]
        for plan in found.plans
    ]
    head = ["requests/s", "replicas", "busy", "wait ms", "one lost: busy", "wait ms"]
    head += [] if cost_per_hour is None else ["cost per million"]
    footing = found.footing
    rate = per_second(footing.rate_per_s)
    first = [f"{footing.engine}, p99 within {footing.bound_ms:g} ms: {rate} requests/s a replica", *footing.doubts]
    others = [remark for remark in found.remarks if remark not in footing.doubts]
    print("\n".join([*first, "", aligned(head, rows, left=0), "", *others]))


def _wait(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:.2f}"
