"""tldeploy deploy"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from tldeploy.cli import show
from tldeploy.cli.canary import SHARE
from tldeploy.cli.show import device_option, force_option, json_option, no_check_option, recipe_argument
from tldeploy.errors import UsageError

if TYPE_CHECKING:
    from tldeploy.devices import Device
    from tldeploy.triton.fitting.goals import Goal

MINUTES = 5.0


def milliseconds(ctx: click.Context | None, param: click.Parameter | None, value: str | None) -> float | None:
    """A duration such as 20ms or 0.5s."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", value.strip())
    duration = float(found[1]) * {"ms": 1, "s": 1000}[found[2]] if found else 0.0
    if not duration:
        raise click.BadParameter(f"{value!r} is not a duration above 0 with its unit, such as 20ms or 0.5s")
    return duration


@click.command("deploy")
@recipe_argument
@click.option("--tune", is_flag=True, help="Find instances, threads and batching first, by measuring the real server.")
@click.option(
    "--p99",
    "p99_ms",
    callback=milliseconds,
    metavar="DURATION",
    help="With --tune: what p99 must not be above, such as 20ms.",
)
@click.option("--min-latency", is_flag=True, help="With --tune: for a client that is alone, not for many.")
@click.option("--tune-minutes", type=click.FloatRange(0, 1440, min_open=True), help="With --tune: about 5 by default.")
@device_option("What runs the graph, instead of the recipe's deploy.device.")
@force_option
@no_check_option
@click.option(
    "--canary", type=SHARE, help="Let it answer a share of the requests, such as 10%, beside the live version."
)
@json_option
def command(
    recipe: str,
    tune: bool,
    p99_ms: float | None,
    min_latency: bool,
    tune_minutes: float | None,
    device: Device | None,
    force: bool,
    no_check: bool,
    canary: float | None,
    as_json: bool,
) -> None:
    """Publish the chosen variant to the Triton model repository, as a new version.

    It is checked first: lint, and every golden row through a server of its own. Then it is live by one rename, and
    every `tldeploy serve` that runs on the repository takes it without losing a request. Whatever fails leaves the
    old version as it was.

    --tune measures a private server with real rows. What it finds is kept in serving/ beside the recipe, and used by
    later deploys of the same variant on this machine; remove the folder to go back to the recipe's settings. Where no
    settings surely hold --p99, nothing is published.

    \b
    Examples:
      tldeploy deploy models/review-sentiment
      tldeploy deploy models/review-sentiment --force    # a new version of the same graph
      tldeploy deploy models/review-sentiment --no-check # on a build machine without a server
      tldeploy deploy models/review-sentiment --canary 10%
      tldeploy deploy models/review-sentiment --device cuda
      tldeploy deploy models/review-sentiment --tune --p99 20ms
      tldeploy deploy models/review-sentiment --tune --min-latency --tune-minutes 2
    """
    from tldeploy import pipeline
    from tldeploy.devices import lacking
    from tldeploy.triton.placement import needs

    goal = _goal(tune, p99_ms, min_latency, tune_minutes)
    outcome = pipeline.deploy(
        recipe,
        force,
        check=not no_check,
        canary=canary,
        goal=goal,
        minutes=tune_minutes or MINUTES,
        device=device,
    )
    name, version, tuning = outcome.manifest.name, int(outcome.folder.name), outcome.manifest.details["tuning"]
    if as_json:
        show.print_json(show.outcome_json(outcome) | {"name": name, "version": version, "tuning": tuning})
    else:
        if tune:
            print(f"{show.serving(tuning)}\n")
        if canary:
            print(f"{name} answers {100 * canary:g} % of the requests in {outcome.folder.parent.parent}")
            print(f"next: tldeploy canary {name.removesuffix('.canary')} --repository {outcome.folder.parent.parent}")
            return
        place = outcome.folder.parent.parent
        runs_on: Device = outcome.manifest.details["settings"]["device"] or "cpu"
        print(f"{name}, version {version}, is live in {place}")
        if lacking(runs_on, needs()):
            print(f"it is not checked: this machine cannot run it on {runs_on}")
            print(f"next: copy {place} to one that can, or tldeploy manifests {place} --for docker")
            return
        show.print_next(name, place)


def _goal(tune: bool, p99_ms: float | None, min_latency: bool, tune_minutes: float | None) -> Goal | None:
    from tldeploy.triton.fitting.goals import Goal

    given = {"--p99": p99_ms is not None, "--min-latency": min_latency, "--tune-minutes": tune_minutes is not None}
    if not tune:
        if alone := [option for option, there in given.items() if there]:
            raise UsageError("deploy", f"{', '.join(alone)} without --tune", "give --tune too")
        return None
    if p99_ms is not None and min_latency:
        found = "both --p99 and --min-latency: the first is for the most rows a second, the second for one client"
        raise UsageError("deploy", found, "give one of them")
    return Goal("latency") if min_latency else Goal("throughput", p99_ms)
