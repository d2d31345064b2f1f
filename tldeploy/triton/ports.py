"""Free ports, for servers whose caller leaves the choice open.

A server listens only when its models are loaded, seconds after its ports were chosen. One that the system would give by
itself may belong to an outgoing connection by then, since it gives those from the same range; so it is one below.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from tldeploy.errors import ServerError

LOOPBACK = "127.0.0.1"
LOWEST, USUAL_END = 10_000, 32_768
DRAWN = 1_000
SYSTEMS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int = 3) -> list[int]:
    """Ports that nobody listens on now, all different. Raises ServerError when too few are found."""
    # Not those that a seed gives: another process may have the same.
    drawn = iter(random.SystemRandom().sample(range(LOWEST, _end()), DRAWN))
    with contextlib.ExitStack() as held:
        return [_held(drawn, held) for _ in range(count)]


def _held(drawn: Iterator[int], held: contextlib.ExitStack) -> int:
    for port in drawn:
        with contextlib.suppress(OSError):
            held.enter_context(socket.create_server((LOOPBACK, port)))
            return port
    found = f"none of those that were tried is, of {DRAWN} from {LOWEST} to {_end() - 1}"
    raise ServerError(f"find a free port of {LOOPBACK}", found, "stop what listens there, or choose the ports yourself")


def _end() -> int:
    """The first that the system gives to connections; the usual one where that is not known, or too low."""
    try:
        begin = int(SYSTEMS.read_text(encoding="ascii").partition("\t")[0])
    except (OSError, ValueError):
        return USUAL_END
    return begin if begin >= LOWEST + DRAWN else USUAL_END
