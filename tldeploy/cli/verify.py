"""tldeploy verify"""

from __future__ import annotations

from dataclasses import asdict

import click

from tldeploy.cli.show import json_option, print_json
from tldeploy.errors import ArtifactError
from tldeploy.tables import aligned


@click.command("verify")
@click.argument("repository", default="triton_repo")
@json_option
def command(repository: str, as_json: bool) -> None:
    """Check the hash of every file of every version that tldeploy published and that is kept.

    Exits with 5 when a file is missing or has changed, and names it. Models from elsewhere have no recorded hashes.

    \b
    Examples:
      tldeploy verify triton_repo
      tldeploy verify /models --json
    """
    from tldeploy import serving

    found = serving.verify(repository)
    intact = not any(version.damaged for version in found)
    if as_json:
        print_json({"intact": intact, "versions": [asdict(version) for version in found]})
    else:
        rows = [
            [
                version.name,
                str(version.version),
                "live" if version.live else "kept",
                "damaged" if version.damaged else "intact",
                f"{version.checked}{', configurations too' if version.live else ''}",
            ]
            for version in found
        ]
        print(aligned(["model", "version", "", "state", "files"], rows, left=5))
        for version in found:
            for damage in version.damaged:
                print(f"{version.name}, version {version.version}: {damage}")
    if not intact:
        raise click.exceptions.Exit(ArtifactError.exit_code)
