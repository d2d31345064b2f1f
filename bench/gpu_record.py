"""The record of bench/gpu.py, gpu.json: written anew after each thing that was measured, and gone on with later.

    environment, device, gpu_counters     the machine, its packages, and why NVML tells nothing, if so
    results.<subject>.machine             what it reaches, measured before the subject was (gpu_limits.py)
    results.<subject>.about               parameters that a request reads; operations and input_bytes by request;
                                          size_bytes by variant
    results.<subject>.requests.<request>  rounds: wall_ms and device_ms by engine, the median of each round
                                          off: the largest difference to the reference's probabilities, by engine
                                          busy: utilisation_percent and memory_mb by engine
                                          left_out: by engine, why it was not measured
    results.<subject>.proof               by engine, where it computes, as it says itself
    results.<subject>.placement           by variant, the share of the host's time on each execution provider
    results.<subject>.quality             engines: of each, the task metric on held-out rows, and what it lost
                                          left_out: by engine, why it was not scored

A record is of one machine and one set of packages: what was measured with others is not added to it. What is recorded
is not measured again, nor is what was left out at a request: to measure that anew, take the request out of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tldeploy.artifacts import write_file
from tldeploy.errors import UsageError

FILE = "gpu.json"
SAME = ("cpu", "gpus", "packages")


class Record:
    """Raises UsageError for a file of another machine, device or set of packages."""

    def __init__(self, folder: Path, environment: dict[str, Any], device: str, gpu_counters: str | None) -> None:
        self.folder, self._file = folder, folder / FILE
        self.content: dict[str, Any] = {
            "environment": environment,
            "device": device,
            "gpu_counters": gpu_counters,
            "results": {},
        }
        if self._file.exists():
            self._go_on(json.loads(self._file.read_text(encoding="utf-8")))

    def _go_on(self, earlier: dict[str, Any]) -> None:
        now, then = self.content["environment"], earlier["environment"]
        other = [name for name in SAME if now.get(name) != then.get(name)]
        if earlier["device"] != self.content["device"]:
            other.append("device")
        if other:
            found = f"its {', '.join(other)} were others when it was begun"
            raise UsageError(f"add to {self._file}", found, "choose another folder with --out, or move the record away")
        self.content["results"] = earlier["results"]

    def of(self, subject: str) -> dict[str, Any]:
        found: dict[str, Any] = self.content["results"].setdefault(subject, {})
        return found

    def missing(self, subject: str, requests: Iterable[str]) -> list[str]:
        """Those that are not measured yet."""
        measured = self.of(subject).get("requests", {})
        return [request for request in requests if request not in measured]

    def keep(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_file(self._file, json.dumps(self.content, indent=1) + "\n")
