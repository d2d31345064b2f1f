"""Reading the server's log: `E0102 03:04:05.678 90 file.cc:12] "message"`, tables, and a worker's own output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_EVENT = re.compile(r'(?P<level>[IWEF])\d{4} [\d:.]+ +\d+ [^\]]+\] "?(?P<message>.*?)"?$')
# Said on every machine without a GPU.
_NOISE = ("CudaDriverHelper has not been initialized", "unable to create stream")
# Of a configuration for a GPU that this machine has not.
_NO_GPU = ("specifies invalid or unsupported gpu id", "has kind KIND_GPU but no GPUs are available")
# A port was free when the server started, and it listens when its models are loaded.
_TAKEN = "already in use"
# Our backend goes on with what is missing, and what to do.
_OWN_REMEDY = "CUDAExecutionProvider;"


def causes(log: Iterable[str], most: int = 5) -> list[str]:
    """Why a server ended: the models that failed to load; else its last errors; else the end of its log."""
    lines = list(log)
    events = [match for match in map(_EVENT.match, lines) if match]
    errors = [without_traceback(event["message"]) for event in events if event["level"] in "EF"]
    errors = [message for message in errors if not message.startswith(_NOISE)]
    errors += [line for line in lines if line.startswith(("error:", "failed"))]
    failed = [message for message in errors if message.startswith("failed to load '")]
    return list(dict.fromkeys(failed or errors))[-most:] or lines[-most:]


def remedy(found: Sequence[str]) -> str:
    """What to do about a server that ended of these causes."""
    if any(said in cause for said in _NO_GPU for cause in found):
        return "serve it where there is such a GPU, or publish it for the CPU (deploy.device: cpu)"
    if any(_TAKEN in cause for cause in found):
        return "start the server again: another program has taken its port meanwhile; or choose another port"
    if any(_OWN_REMEDY in cause for cause in found):
        return "do what it says, then start the server again"
    return "publish the model that it names again with `tldeploy deploy`, then start the server again"


def last_events(log: Iterable[str], most: int = 5) -> list[str]:
    """The end of the log, without its tables."""
    return [line for line in log if line and not line.startswith(("+-", "| "))][-most:]


def without_traceback(message: str) -> str:
    """Python workers append where an exception was raised; in the log, with its line breaks escaped."""
    return re.split(r"(?:\\n|\n)+At:", message, maxsplit=1)[0]
