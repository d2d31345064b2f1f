"""The command line. One file a verb: it parses, calls tldeploy's API, and prints; nothing is decided here.

`main` turns errors into messages and exit codes, as errors.py documents them. The verbs import the API, and all that is
heavy, when they run: `tldeploy --help` imports click and nothing else.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from tldeploy import __version__
from tldeploy.cli import (
    bench,
    canary,
    capacity,
    compare,
    deploy,
    doctor,
    export,
    fetch,
    find_rate,
    init,
    lint,
    manifests,
    predict,
    rank,
    rollback,
    run,
    search,
    serve,
    trace,
    tune,
    verify,
)
from tldeploy.cli.show import print_json, wants_json
from tldeploy.errors import INTERRUPTED, StorageError, TldeployError, UsageError, storage_errors

HELP = """From a pretrained network and your labelled data to a measured, quantized ONNX model behind Triton.

\b
Examples:
  tldeploy init --data reviews.csv --backbone bert-base-uncased --name reviews
  tldeploy run models/reviews
  tldeploy serve triton_repo
  tldeploy predict reviews "Great camera, awful battery"

\b
Exit codes:
  0    done                           6    missing package, provider or program; full memory
  1    a bug of tldeploy              7    the server failed, or refused a request
  2    wrong usage                    8    quality below what was asked for, or lint's errors
  3    mistakes in a recipe           9    disk full, or not writable
  4    unusable data                  130  interrupted: run again to go on
  5    damaged artifact or weights

Every verb takes --json: the last line of standard output is then one JSON object, also for an error.
"""
NUMBERS = {"integer": "a whole number", "float": "a number"}  # as click does not call them
VERBS = (
    *(init, rank, run, fetch, find_rate, tune, search, export, deploy, serve, predict, bench, compare),
    *(capacity, manifests, lint, canary, rollback, trace, verify, doctor),
)


class _InOrder(click.Group):
    """Lists the verbs in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


app = _InOrder(
    "tldeploy",
    help=HELP,
    commands=[verb.command for verb in VERBS],
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, message="%(version)s")(app)


def main() -> None:
    """The console script."""
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 — the first process has the results
    for stop in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # a background job ignores Ctrl-C
            signal.signal(stop, _interrupt)
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    try:
        with storage_errors():
            code = app(args=list(arguments), prog_name="tldeploy", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(arguments)
    except click.ClickException as error:
        return _misused(error, arguments)
    except TldeployError as error:
        return _interrupted(arguments) if _signals else _fail(error, arguments)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        return StorageError.exit_code
    except Exception as error:
        if _signals:
            return _interrupted(arguments)
        print("this is a bug of tldeploy; please report it with the lines below", file=sys.stderr)
        if wants_json(arguments):
            print_json({"error": type(error).__name__, "found": str(error), "exit_code": TldeployError.exit_code})
        raise
    return code if isinstance(code, int) else 0


def _fail(error: TldeployError, arguments: Sequence[str]) -> int:
    print(f"error: {error}", file=sys.stderr)
    if wants_json(arguments):
        print_json(error.as_json())
    return error.exit_code


def _misused(error: click.ClickException, arguments: Sequence[str]) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return UsageError.exit_code
    found = error.format_message().rstrip(".")
    found = re.sub(r"a valid (integer|float)( range)?", lambda kind: NUMBERS[kind[1]], found)
    usage = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "tldeploy"
    fix = f"see `{usage} --help`"
    if isinstance(error, click.NoSuchOption) and usage.endswith(" predict"):
        fix += "; a text that begins with - goes behind --"
    return _fail(UsageError("understand the command", found, fix), arguments)


def _interrupted(arguments: Sequence[str]) -> int:
    print("interrupted; what is finished is kept: run the same command again to go on", file=sys.stderr)
    if wants_json(arguments):
        print_json({"error": "Interrupted", "exit_code": INTERRUPTED})
    return INTERRUPTED


class _Interrupted(KeyboardInterrupt):
    """Not KeyboardInterrupt itself: once that has left an exec(), Python ends by the signal, not by our exit code."""


# The signals that came: libraries turn one that comes while they are imported into an error of their own.
_signals: list[int] = []


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: what is half-written goes, what is finished stays."""
    _signals.append(signum)
    raise _Interrupted
