"""Checkpoints of an unfinished training: one folder each, written beside and put in place by one rename.

A checkpoint is `step-<n>/` with the network's weights, the optimizer's and the schedule's state, averages, the best
weights so far, and what the trainer remembers. There is no random state in it: every step seeds its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tldeploy.artifacts import is_alive
from tldeploy.errors import storage_errors

EVERY_S = 60.0  # within an epoch; at the end of each there is one anyway


@contextmanager
def writing(folder: Path, step: int) -> Iterator[Path]:
    """A folder to write into, which then becomes the one checkpoint. A kill at any moment leaves the one before."""
    beside, final = folder / f".writing-{os.getpid()}", folder / f"step-{step}"
    with storage_errors(folder):
        for stale in folder.glob(".writing-*"):
            if not is_alive(int(stale.name.rpartition("-")[2])):
                shutil.rmtree(stale, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            yield beside
            shutil.rmtree(final, ignore_errors=True)
            beside.rename(final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        for older in steps(folder):
            if older != step:
                shutil.rmtree(folder / f"step-{older}", ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """The steps that there are checkpoints of, in order."""
    return sorted(int(found.name.removeprefix("step-")) for found in folder.glob("step-*"))
