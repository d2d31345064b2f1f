"""An arena of a known law and of its own time: what a configuration does is a function, with noise from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tldeploy.recipe import Deploy
from tldeploy.triton.fitting.goals import Running
from tldeploy.triton.fitting.race import Turn

Law = Callable[[Running, int], float]  # the typical latency in ms, with so many clients

START_S = 0.8


class LawfulArena:
    """Latencies are log-normal around the law; each turn as a whole is off by `drift`, as machines are."""

    def __init__(self, law: Law, *, noise: float = 0.2, drift: float = 0.03, seed: int = 0, busy: float = 0.1) -> None:
        self.law, self.noise, self.drift, self.busy = law, noise, drift, busy
        self.draw = np.random.default_rng(seed)
        self.clock = 0.0
        self.running = Running.of(Deploy())
        self.turns: list[tuple[Running, int, float]] = []

    def now(self) -> float:
        return self.clock

    def serve(self, running: Running) -> None:
        self.running = running
        self.clock += START_S

    def load(self, clients: int, seconds: float) -> Turn:
        typical = self.law(self.running, clients) * np.exp(self.drift * self.draw.normal())
        count = max(1, int(1000 * seconds * clients / typical))
        latency_ms = typical * np.exp(self.noise * self.draw.normal(size=count))
        elapsed_s = float(latency_ms.sum()) / clients / 1000
        self.clock += elapsed_s
        self.turns.append((self.running, clients, seconds))
        return Turn(clients, latency_ms, elapsed_s, self.busy)
