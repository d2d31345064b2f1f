"""Run a whole job again and again, and stop each run at a line of its progress.

    python stopped_runs.py <project> <JSON: the beginning of the line, and the name of the signal, for each run>

Prints as JSON, for each run, its exit code, all that it said, and what was half-written in the project then. Every run
is a fork, so that imports are paid once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import tldeploy.benchmarking.bench
import tldeploy.exporting.export
import tldeploy.tuning.tune  # noqa: F401
from tldeploy.cli import main


def run(project: Path, said: int) -> None:
    """In a fork: the command, whose standard error goes into the pipe `said`."""
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv[1:] = ["run", str(project)]
    main()


def stopped(project: Path, until: str, stop: str) -> dict[str, object]:
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        run(project, write)
    os.close(write)
    said = ""
    with os.fdopen(read, encoding="utf-8") as stream:
        for line in stream:
            said += line
            if line.startswith(until) and "unchanged" not in line:
                os.kill(child, signal.Signals[stop])
                break
        said += stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "said": said, "half_written": [path.name for path in project.glob(".*.writing-*")]}


if __name__ == "__main__":
    print(json.dumps([stopped(Path(sys.argv[1]), *each) for each in json.loads(sys.argv[2])]))
