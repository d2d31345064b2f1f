"""How much a graph lost against fp32: the task metric that counts, and a smoother loss that tells layers apart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.data.coverage import covering
from tldeploy.data.rows import Rows
from tldeploy.exporting.source import Source
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.classification import Tensors
from tldeploy.tasks.metrics import Drop

MOST_ROWS, LOSS_ROWS = 1000, 64
SMALLEST = 1e-12  # probabilities below it count as it

Probabilities = NDArray[np.float32]


class Judge:
    """Rows go in one at a time, as the scorecard measures: a scale taken from each batch depends on the batch.

    drop: on validation rows, 1000 at most. loss: on 64 of those that calibrated; it needs no labels.
    """

    def __init__(self, source: Source) -> None:
        self._task = source.task
        self._validation, self._asked = self._encoded(source.validation, MOST_ROWS)
        _, self._compared = self._encoded(source.calibration, LOSS_ROWS)
        self._expected = self._answers(source.graph, self._compared)
        self._before = self._task.decode(self._answers(source.graph, self._asked))

    def drop(self, graph: Path) -> Drop:
        """What the graph loses of the task metric."""
        after = self._task.decode(self._answers(graph, self._asked))
        return self._task.drop(self._validation.classes, self._before, after)

    def loss(self, graph: Path) -> float:
        """The mean divergence of its probabilities from fp32's."""
        return divergence(self._expected, self._answers(graph, self._compared))

    def _encoded(self, rows: Rows, most: int) -> tuple[Rows, list[Tensors]]:
        chosen = rows.take(covering(rows.classes, None, most))
        examples = self._task.examples(chosen.inputs)
        return chosen, [examples.batch([at]) for at in range(len(examples))]

    def _answers(self, graph: Path, inputs: Iterable[dict[str, NDArray[Any]]]) -> Probabilities:
        runner = OnnxRunner(graph, self._task)
        answers = np.concatenate([runner.run(tensors) for tensors in inputs])
        runner.close()
        return answers


def divergence(expected: Probabilities, found: Probabilities) -> float:
    """Kullback-Leibler divergence in nats, the mean over rows; infinite where a graph gives NaN."""
    if not np.isfinite(found).all():
        return float("inf")
    p, q = (np.maximum(part.astype(np.float64), SMALLEST) for part in (expected, found))
    return float((p * (np.log(p) - np.log(q))).sum(axis=1).mean())
