"""A lock file that keeps two processes apart; the kernel drops the lock of a process that dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tldeploy.errors import StorageError, storage_errors
from tldeploy.progress import say

ASK_EVERY_S = 0.05
PATIENT_S = 1.0


@contextmanager
def locked(path: Path, asked: str, wait_s: float, new_folder: bool = True) -> Iterator[None]:
    """Hold the lock at `path`, waiting up to `wait_s` seconds for whoever holds it.

    new_folder: make its folder if there is none.

    Raises StorageError, "cannot {asked}: …", when the other one does not finish in time, and FileNotFoundError when
    there is no folder.
    """
    with storage_errors(path):
        if new_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        _acquire(handle, path, asked, wait_s)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, asked: str, wait_s: float) -> None:
    start, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited_s = time.monotonic() - start
        if waited_s > wait_s:
            found = f"{path} has been held by others for {wait_s:.0f} s"
            fix = "wait until they have finished, or stop them, and run the same command again"
            raise StorageError(asked, found, fix)
        if waited_s > PATIENT_S and not told:
            told = True
            say(f"waiting for another tldeploy that holds {path}")
        time.sleep(ASK_EVERY_S)
