"""tldeploy lint"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from tldeploy.cli.show import json_option, print_json
from tldeploy.errors import QualityError

if TYPE_CHECKING:
    from tldeploy.triton.lint.check import Lint


@click.command("lint")
@click.argument("repository", default="triton_repo")
@click.option("--fix", is_flag=True, help="Mend what is safe to mend, and say what was done.")
@click.option("--opset", type=click.IntRange(1), help="Newest opset that the server reads.  [default: 20]")
@click.option("--ir-version", type=click.IntRange(1), help="Newest IR version that the server reads.  [default: 10]")
@click.option("--cores", type=click.IntRange(1), help="The server's cores.  [default: those of this machine]")
@click.option("--gpus", type=click.IntRange(0), help="The server's GPUs.  [default: those of this machine]")
@json_option
def command(
    repository: str,
    fix: bool,
    opset: int | None,
    ir_version: int | None,
    cores: int | None,
    gpus: int | None,
    as_json: bool,
) -> None:
    """Say what is wrong with a Triton model repository, anybody's, before a server refuses it.

    Only looks, unless --fix is given: then configurations are mended where that is safe. Nothing is loaded or run. The
    server is Triton 26.09 on this machine unless told otherwise. Exits with 8 when there are errors.

    \b
    Examples:
      tldeploy lint triton_repo
      tldeploy lint /models --cores 16 --gpus 1
      tldeploy lint /models --fix
    """
    from tldeploy import serving
    from tldeploy.triton.lint.models import Target

    given = {"opset": opset, "ir_version": ir_version, "cores": cores, "gpus": gpus}
    target = replace(Target(), **{name: value for name, value in given.items() if value is not None})
    found = serving.lint(repository, fix, target)
    if as_json:
        print_json(
            {
                "repository": str(found.repository),
                "models": list(found.models),
                "errors": found.errors,
                "warnings": found.warnings,
                "fixed": list(found.fixed),
                "findings": [finding.as_json() for finding in found.findings],
            }
        )
    else:
        _print(found)
    if found.errors:
        raise click.exceptions.Exit(QualityError.exit_code)


def _print(found: Lint) -> None:
    for done in found.fixed:
        print(f"fixed: {done}")
    for finding in found.findings:
        print(f"{finding.severity}  {finding.place}  {finding.rule}\n  {finding.found}")
        if finding.values:
            print(f"  {' | '.join(f'{where}: {value}' for where, value in finding.values.items())}")
        print(f"  fix: {finding.fix}{' (--fix does it)' if finding.edit else ''}")
    models = f"{len(found.models)} model{'' if len(found.models) == 1 else 's'}"
    errors = f"{found.errors} error{'' if found.errors == 1 else 's'}"
    print(f"{models}: {errors}, {found.warnings} warning{'' if found.warnings == 1 else 's'}")
