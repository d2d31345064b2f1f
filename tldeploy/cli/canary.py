"""tldeploy canary"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from tldeploy.cli.show import json_option, print_json

if TYPE_CHECKING:
    from tldeploy.triton.canary.comparison import Comparison


class Share(click.ParamType[float, Any]):
    """A share of the requests, between 0 and 1: `10%`, or `0.1`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(str(value).removesuffix("%")) / (100 if str(value).endswith("%") else 1)
        except ValueError:
            share = -1
        if not 0 < share < 1:
            self.fail(f"{value!r} is not a share of the requests, such as 10% or 0.1", param, ctx)
        return share


SHARE = Share()


@click.command("canary")
@click.argument("name")
@click.option("--promote", "decision", flag_value="promote", help="Make the canary the live version.")
@click.option("--drop", "decision", flag_value="drop", help="Let the live version answer everything again.")
@click.option("--share", type=SHARE, help="Give the canary another share of the requests, such as 25%.")
@click.option(
    "--metrics", multiple=True, metavar="URL", help="Metrics of a server elsewhere: http://host:8002/metrics."
)
@click.option("--repository", default="triton_repo", show_default=True, help="The model repository.")
@json_option
def command(
    name: str,
    decision: Literal["promote", "drop"] | None,
    share: float | None,
    metrics: tuple[str, ...],
    repository: str,
    as_json: bool,
) -> None:
    """Compare a canary with the live version, by what running servers counted; then keep one of the two.

    `tldeploy deploy RECIPE --canary 10%` starts one. Every request that it answers is put to the live version as well.

    \b
    Examples:
      tldeploy canary review-sentiment
      tldeploy canary review-sentiment --share 50%
      tldeploy canary review-sentiment --promote
    """
    from tldeploy import serving

    if decision and share is not None:
        raise click.UsageError("--share is for a canary that goes on; --promote and --drop end it")
    found = serving.canary(name, decision, share, repository, metrics)
    if as_json:
        print_json((found.as_json() if found else {"name": name}) | {"decision": decision})
        return
    print(described(found) if found else f"{name}: no canary answers requests any more")
    if decision:
        print("the canary is live" if decision == "promote" else "the canary is gone")
    else:
        print(f"end it: tldeploy canary {name} --promote, or --drop")


def described(found: Comparison) -> str:
    """What was counted, in words."""
    canary = found.canary
    lines = [
        f"{canary.name}: the canary answers {100 * canary.share:g} % of the requests, version {canary.stable} the rest",
        f"  asked    {found.asked:,} times; failed {found.failed:,}, refused by both {found.refused:,}",
    ]
    if found.agreement is not None and found.lag_ms is not None:
        lines += [
            f"  labels   the same in {100 * found.agreement:.1f} %{_interval(found.agreement_interval, 100)}; "
            f"probabilities differ by {found.drift:.3f} in the mean",
            f"  latency  {found.canary_ms:.1f} ms beside {found.stable_ms:.1f}, both asked at once: "
            f"{found.lag_ms:+.1f} ms{_interval(found.lag_interval_ms, 1)}",
        ]
    return "\n".join(lines)


def _interval(found: tuple[float, float] | None, scale: float) -> str:
    return (
        f" [{scale * found[0]:.1f}, {scale * found[1]:.1f}]" if found else " (an interval takes a minute of requests)"
    )
