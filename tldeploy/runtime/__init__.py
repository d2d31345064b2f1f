"""Runners: one way to call a model whatever runs it. One file an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tldeploy.tasks.classification import Row


class Runner(Protocol):
    """Rows in, probabilities out, preprocessing included: what a caller waits for.

    name: the engine as tables show it, for instance `onnxruntime int8-dynamic`.
    provider: what really computes, as verified, for instance `CPUExecutionProvider`.
    predict: float32 [rows, classes]; safe to call from several threads at once.
    """

    name: str
    provider: str

    def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]: ...

    def close(self) -> None: ...
