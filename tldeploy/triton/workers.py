"""The worker processes of a running server: which they are, and how one that hangs is ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Workers:
    """prefix: of the shared memory of that server's workers, which nobody else's have in their command line."""

    prefix: str
    repository: Path

    def of(self, model: str) -> list[int]:
        """The process ids of a model's workers."""
        folder = str(self.repository / model)
        return [pid for pid, command in _stubs() if self._is_ours(command) and _is_below(command, folder)]

    def kill(self, model: str) -> int:
        """End a model's workers, whatever they do; how many there were. Their requests are answered with an error."""
        found = self.of(model)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def _is_ours(self, command: list[str]) -> bool:
        return any(word.startswith(self.prefix) for word in command)


def _is_below(command: list[str], folder: str) -> bool:
    return any(word == folder or word.startswith(f"{folder}/") for word in command)


def _stubs() -> Iterator[tuple[int, list[str]]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if Path(command[0]).name == STUB:
                yield int(process.name), command
