"""Every error that a person can meet, as one tree, and the exit code that the command line gives each.

TldeployError               1
├── UsageError              2    a command that cannot be understood
├── RecipeError             3    mistakes in a recipe, all of them named at once
│   └── IncapableError      3    a method that this kind of network cannot do
├── DataError               4    rows, columns, labels or encodings that cannot be used
├── ArtifactError           5    a missing, changed or half-written artifact, corrupt weights, a wrong hash
├── MachineError            6    a missing package, provider, program or piece of hardware; memory that is full
├── ServerError             7    a server that does not start, dies, hangs or cannot be reached
│   └── RequestError        7    a request that the server refused
├── QualityError            8    parity, accuracy or fusion below what was asked for
└── StorageError            9    a full disk, or a place that cannot be written

An interrupted command (Ctrl-C, SIGTERM) exits with 130.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 130


class TldeployError(Exception):
    """What was asked, what was found, and what to do about it.

    `asked` completes "cannot …", as in `cannot read data/reviews.csv: it is empty`.
    """

    exit_code = 1

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(asked, found, fix)
        self.asked, self.found, self.fix = asked, found, fix

    def __str__(self) -> str:
        return f"cannot {self.asked}: {self.found}\n  fix: {self.fix}"

    def as_json(self) -> dict[str, object]:
        return {
            "error": type(self).__name__,
            "asked": self.asked,
            "found": self.found,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class UsageError(TldeployError):
    exit_code = 2


class RecipeError(TldeployError):
    exit_code = 3


class IncapableError(RecipeError):
    """No setting is wrong; but the network, or the task, has not what the method works on."""


class DataError(TldeployError):
    exit_code = 4


class ArtifactError(TldeployError):
    exit_code = 5


class MachineError(TldeployError):
    exit_code = 6


class ServerError(TldeployError):
    exit_code = 7


class RequestError(ServerError):
    """The server is there and answered, but refused this request."""


class QualityError(TldeployError):
    exit_code = 8


class StorageError(TldeployError):
    exit_code = 9


_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def storage_errors(place: Path | None = None) -> Iterator[None]:
    """Turn the operating system's refusal to write (below `place`, if that is known) into a StorageError."""
    try:
        yield
    except TldeployError:
        raise
    except Exception as error:
        refusal = _os_error_behind(error)
        if refusal is None:
            raise
        if refusal.errno in _DISK_IS_FULL:
            found, fix = "the disk is full", "free some space and run the same command again; finished stages are kept"
        else:
            found, fix = f"writing there is refused ({refusal.strerror})", "choose a folder that you may write"
        raise StorageError(f"write below {place}" if place else "write", found, fix) from error


def _os_error_behind(error: BaseException | None) -> OSError | None:
    """The refused write at the root of `error`; libraries wrap it in errors of their own (safetensors: as text)."""
    seen = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_IS_FULL | _NOT_WRITABLE:
            return seen
        if not isinstance(seen, OSError) and "No space left on device" in str(seen):
            return OSError(errno.ENOSPC, "No space left on device")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None
