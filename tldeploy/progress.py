"""Progress of long work, on standard error: a bar on a terminal, plain lines elsewhere.

Standard output stays free for results, so that `--json` can be piped.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 5.0
Advance = Callable[[int], None]


def say(line: str) -> None:
    """One plain line for the person who watches. Of processes that train together only the first one talks."""
    if os.environ.get("RANK", "0") != "0":
        return
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show the progress of `total` steps of `what`; call the given function with the number of steps just done."""
    if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        yield from _bar(what, total)
    else:
        yield from _lines(what, total)


def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        start = time.monotonic()
        yield lambda steps: bar.advance(task, steps)
    say(f"{what}: {total} in {time.monotonic() - start:.1f} s")


def _lines(what: str, total: int) -> Iterator[Advance]:
    done, start, last = 0, time.monotonic(), time.monotonic()

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last > LINE_EVERY_S and done < total:
            last = time.monotonic()
            left_s = (last - start) * (total - done) / done
            say(f"{what}: {done}/{total} ({done / total:.0%}), about {_duration(left_s)} left")

    yield advance
    say(f"{what}: {total} in {time.monotonic() - start:.1f} s")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
