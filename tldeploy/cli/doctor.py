"""tldeploy doctor"""

from __future__ import annotations

import click

from tldeploy.cli.show import json_option, print_json
from tldeploy.errors import MachineError
from tldeploy.tables import aligned


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Say what this machine has and what is missing, with the command that fixes it.

    Exits with 6 when something that is needed is missing.

    \b
    Examples:
      tldeploy doctor
      tldeploy doctor --json
    """
    from tldeploy import serving

    checks = serving.doctor()
    healthy = all(check.status != "missing" for check in checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [check.as_json() for check in checks]})
    else:
        print(aligned(["check", "status", "found"], [[c.name, c.status, c.found] for c in checks], left=3))
        for check in checks:
            if check.fix:
                print(f"{check.name}: {check.fix}")
    if not healthy:
        raise click.exceptions.Exit(MachineError.exit_code)
