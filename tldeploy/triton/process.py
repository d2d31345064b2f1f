"""A program that serves, under the watch of a warden: its log is read, and nothing of it outlives us (warden.py)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WARDEN = Path(__file__).with_name("warden.py")
LOG_TAIL = 400

Log = Callable[[str], None]


class Process:
    """command: the program, in a session of its own, so that Ctrl-C reaches only us.

    patience_s: how long it may take to stop before it is killed. prefix: of what it leaves in /dev/shm.
    log: receives each line of its output, from another thread.
    """

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], patience_s: float, prefix: str, log: Log | None
    ) -> None:
        self._log, self._patience_s = log, patience_s
        self.tail: deque[str] = deque(maxlen=LOG_TAIL)
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(WARDEN), str(patience_s), prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(variables),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.poll, self.wait = self._process.poll, self._process.wait
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.tail.append(line.rstrip("\n"))
            if self._log is not None:
                try:
                    self._log(line.rstrip("\n"))
                except OSError:  # nobody reads our output any more; unread, the program's would fill up and block it
                    self._log = None

    def last_words(self) -> list[str]:
        """The end of the log of a process that has ended, complete."""
        self._reader.join()
        return list(self.tail)

    def stop(self) -> None:
        """Stop the program, and wait until nothing of it is left."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # the warden stops the program when this pipe closes
        try:
            process.wait(self._patience_s + 10)
        except subprocess.TimeoutExpired:  # the kernel kills the program with its warden
            process.kill()
            process.wait()
        self._reader.join()
        process.stdout.close()
