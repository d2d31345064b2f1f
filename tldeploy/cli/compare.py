"""tldeploy compare"""

from __future__ import annotations

import click

from tldeploy.cli import show
from tldeploy.cli.show import json_option


@click.command("compare")
@click.argument("old")
@click.argument("new")
@click.option("--out", default=".", show_default=True, metavar="FOLDER", help="Where to write.")
@click.option("--any-machine", is_flag=True, help="Judge timings although the machines differ.")
@json_option
def command(old: str, new: str, out: str, any_machine: bool, as_json: bool) -> None:
    """Lay two reports of `tldeploy bench` (report.json) side by side, engine by engine; measures nothing.

    Writes comparison.html and comparison.md: p50, p99, throughput and the task metric of both runs, what changed with
    its 95 % interval, whether that is more than chance and noise, and what of machines, versions and decisions differs.

    \b
    Examples:
      tldeploy compare recorded.json models/review-sentiment/report.json
      tldeploy compare old/report.json new/report.json --out changes --json | tail -n 1
    """
    from tldeploy.benchmarking.page.comparing import compare

    found = compare(old, new, out, any_machine)
    if as_json:
        show.print_json(found.as_json())
    else:
        print(f"{show.comparison(found)}\ncomparison: {out}/comparison.html")
