"""Another process that answers lines of JSON with lines of JSON, one by one: both its ends.

What it writes on standard error, and on standard output through libraries, is kept, and told when it dies. It ends with
the process that started it, however that one ends: its standard input does then. Its folder goes with it.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tldeploy import errors
from tldeploy.errors import MachineError
from tldeploy.tasks.classification import Row

PATIENCE_S = 1.0
LAST_LINES = 40


def packed(rows: Sequence[Row]) -> list[str | dict[str, str]]:
    """Rows as JSON has them: texts and paths as they are, the bytes of a file in an object."""
    return [row if isinstance(row, str) else {"base64": base64.b64encode(row).decode("ascii")} for row in rows]


def unpacked(rows: list[str | dict[str, str]]) -> list[Row]:
    """The rows that `packed` was given."""
    return [row if isinstance(row, str) else base64.b64decode(row["base64"]) for row in rows]


class Process:
    """The end of the process that starts the other one.

    module: what is run, with a `Parent` of its own. asked: completes "cannot …" where it dies. about: what it is told
    first; `began` is its answer. Its folder for temporary files goes when it does, and holds nothing that another run
    has made.

    Raises what `tell` does.
    """

    def __init__(self, module: str, asked: str, about: dict[str, Any]) -> None:
        self.asked = asked
        self._turn = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="tldeploy-", ignore_cleanup_errors=True)
        self._said = Path(self._folder.name) / "said"
        with self._said.open("wb") as said:
            # A group of its own: Ctrl-C is for this process to handle.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                encoding="utf-8",
                process_group=0,
                env=os.environ | {"TMPDIR": self._folder.name},
            )
        try:
            self.began = self.tell(about)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, what: dict[str, Any]) -> dict[str, Any]:
        """Send one object and wait for the answer to it; safe to call from several threads at once.

        Raises the error of this package that was raised there, and MachineError when the process is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            try:
                self._process.stdin.write(json.dumps(what) + "\n")
                self._process.stdin.flush()
                answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            except (OSError, ValueError) as error:
                raise self._gone() from error
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["asked"], answer["found"], answer["fix"])
        return answer

    def close(self) -> None:
        """Let it end; one that is in the midst of something has a moment for it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._ended()
        self._folder.cleanup()

    def kill(self) -> None:
        """End it at once, with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.close()

    def _ended(self) -> int:
        """Its exit code, within some seconds."""
        try:
            return self._process.wait(timeout=3 * PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def _gone(self) -> MachineError:
        code = self._ended()
        said = self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
        ended = f"its process is gone (exit code {code}{_by_signal(code)})"
        found = "\n    ".join([f"{ended}; its last words:", *said]) if said else ended
        killed = "free some memory, if nobody killed it: the system does when there is none (`dmesg` tells)"
        return MachineError(self.asked, found, killed if code == -signal.SIGKILL else "mend what its last words tell")


def _by_signal(code: int) -> str:
    return f", {signal.Signals(-code).name}" if code < 0 else ""


class Parent:
    """The end of the process that was started: what it is told, one by one, and how it answers.

    The folder that it was started with is removed at its end once the parent has left it, which may have been killed.
    Where it dies by itself the folder stays, for the parent to read its last words.
    """

    def __init__(self) -> None:
        self._folder = sys.argv[1]
        # Libraries print; the pipe is for answers alone.
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Until the parent is gone, or wants no more."""
        while (line := self._told.get()) is not None:
            yield json.loads(line)

    def answer(self, found: dict[str, Any]) -> None:
        self._answers.write(json.dumps(found) + "\n")
        self._answers.flush()

    def _listen(self) -> None:
        with os.fdopen(os.dup(0), encoding="utf-8") as stream:
            for line in stream:
                self._told.put(line)
        atexit.register(self._clear)
        self._told.put(None)
        time.sleep(PATIENCE_S)
        self._clear()
        os._exit(1)  # in the midst of something whose answer nobody waits for

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
