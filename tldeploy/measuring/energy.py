"""Energy: what the processors and the GPUs of this machine drew while something ran, as their own counters tell.

Processors count by RAPL, which Linux shows as power zones: /sys/class/powercap/intel-rapl:*, of AMD's processors too.
Packages are counted, and memory where it has a zone of its own; other zones within a package, and that of the whole
board, are left out, as they count the same again. GPUs count by NVML. All of it is the machine's, idle time and other
programs included, so it belongs to an engine as far as nothing else runs.

Most virtual machines have no counters, and most others let root alone read them: their energy gives keys away (Lipp et
al., PLATYPUS, IEEE S&P 2021).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tldeploy.measuring.nvml import find_gpus

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """read: its state in joules, which begins again at 0 once it has reached `range_j`. Raises OSError."""

    name: str
    read: Callable[[], float]
    range_j: float = math.inf


@dataclass(frozen=True)
class Meter:
    """The counters that can be read. why_not: why some cannot, or why there are none, in words; else None."""

    counters: tuple[Counter, ...]
    why_not: str | None

    def read(self) -> list[float]:
        """The state of each counter, in joules; NaN for one that can no longer be read."""
        return [_or_nan(counter) for counter in self.counters]

    def since(self, before: list[float]) -> float:
        """Joules drawn since they were read; NaN where it is not known.

        A counter may have begun again once: that of a package takes minutes to.
        """
        drawn = [
            (0 if after >= earlier else counter.range_j) + after - earlier
            for counter, earlier, after in zip(self.counters, before, self.read(), strict=True)
        ]
        return sum(drawn) if drawn else math.nan

    def as_json(self) -> dict[str, Any]:
        return {"counted": [counter.name for counter in self.counters], "why_not": self.why_not}


def find_meter(powercap: Path = POWERCAP, load: Callable[[str], Any] = ctypes.CDLL) -> Meter:
    """The counters of this machine. powercap: where its power zones are. load: opens NVML, or raises OSError."""
    zones, why_not = _zones(powercap)
    return Meter((*zones, *_gpus(load)), why_not)


def _zones(powercap: Path) -> tuple[list[Counter], str | None]:
    """All zones that count, or none: a package of two would pass for the whole."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if not name.startswith(("package", "dram")):
                continue
            range_j = int((zone / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
            counter = Counter(name, _reader(zone / "energy_uj"), range_j)
            counter.read()
        except (OSError, ValueError) as error:
            root = "; root can read it, or who is let: chmod a+r" if isinstance(error, PermissionError) else ""
            return [], f"{zone / 'energy_uj'} cannot be read{root}"
        found.append(counter)
    return found, None if found else f"there are no power zones in {powercap}, as on most virtual machines"


def _reader(file: Path) -> Callable[[], float]:
    return lambda: int(file.read_text(encoding="ascii")) / 1e6


def _gpus(load: Callable[[str], Any]) -> list[Counter]:
    """One counter a GPU, from Volta on; none where there is no driver."""
    try:
        counters = [Counter(gpu.name, gpu.energy_j) for gpu in find_gpus(load)]
    except OSError:
        return []
    return [counter for counter in counters if not math.isnan(_or_nan(counter))]


def _or_nan(counter: Counter) -> float:
    try:
        return counter.read()
    except (OSError, ValueError):
        return math.nan
