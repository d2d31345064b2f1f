"""tldeploy trace"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from tldeploy.cli.show import interval, json_option, print_json
from tldeploy.tables import aligned


@click.command("trace")
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--repository", default="triton_repo", show_default=True, help="The model repository.")
@json_option
def command(name: str, version: int | None, repository: str, as_json: bool) -> None:
    """Say where a served model comes from: graph, export, tuned network, rows and recipe, each by its hash.

    Of each it says whether what is on disk is still the same: intact, damaged, replaced by another, or gone. What was
    recorded when it was published is shown in any case.

    \b
    Examples:
      tldeploy trace review-sentiment
      tldeploy trace review-sentiment 3 --json
    """
    from tldeploy import serving

    found = serving.trace(name, version, repository)
    if as_json:
        links = [link.as_json() for link in found.links]
        print_json({"name": found.name, "version": found.version, "live": found.live, "links": links})
        return
    print(f"{found.name}, version {found.version}, is {'live' if found.live else 'kept'}")
    rows = [[link.what, link.sha256[:12], link.state, link.place] for link in found.links]
    print(aligned(["what", "sha256", "on disk", "where"], rows, left=4))
    for link in found.links:
        if link.found:
            print(f"{link.what}: {link.found}")
        for fact, value in link.facts.items():
            if value != {}:
                print(f"{link.what}, {fact}: {_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= value.keys():
            return interval(value)
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items() if inner is not None)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
