"""The process between tldeploy and `tritonserver`: when tldeploy goes, by whatever death, the server goes too.

    python -I warden.py <patience_s> <shared-memory prefix> tritonserver …

The warden's standard input is a pipe that only tldeploy holds open. When it closes, or on SIGTERM, the warden stops the
server: SIGTERM, then after `patience_s` seconds SIGKILL for its whole process group. When the server has ended, by
itself or not, what a killed server leaves is removed: Python workers and their shared memory. The warden then exits
with the server's own exit code. Standard library only; it is run as a file, outside the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
GONE_WITHIN_S = 5.0
SHARED_MEMORY = Path("/dev/shm")


def main() -> int:
    patience_s, prefix, *command = sys.argv[1:]
    libc = ctypes.CDLL(None)

    def die_with_the_warden() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    signal.signal(signal.SIGTERM, _interrupt)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=die_with_the_warden,  # noqa: PLW1509 — safe, for the warden has one thread
    )
    try:
        _wait_until_one_ends(server)
        return _stop(server, float(patience_s))
    finally:
        _end_group(server.pid)
        for region in SHARED_MEMORY.glob(f"{prefix}*"):
            region.unlink(missing_ok=True)


def _end_group(group: int) -> None:
    """Kill what is left of it, and wait until it has gone."""
    deadline = time.monotonic() + GONE_WITHIN_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.01)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise InterruptedError


def _wait_until_one_ends(server: subprocess.Popen[bytes]) -> None:
    """Nothing is ever written to standard input, so it becomes readable when its other end closes."""
    process = os.pidfd_open(server.pid)
    with contextlib.suppress(InterruptedError):
        select.select([sys.stdin, process], [], [])


def _stop(server: subprocess.Popen[bytes], patience_s: float) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.terminate()
    try:
        return server.wait(patience_s)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


if __name__ == "__main__":
    code = main()
    sys.exit(code if code >= 0 else 128 - code)
