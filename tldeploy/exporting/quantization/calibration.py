"""Calibration: between which values each activation lies, found on rows that were learnt from.

1. Rows are chosen to cover the classes and the lengths.
2. They go through the fp32 graph in batches of similar lengths, one batch at a time: of each tensor only its extremes,
   or a histogram, are kept. (onnxruntime's own CalibMaxIntermediateOutputs forgets what it saw: onnxruntime#18893.)
3. The range is all that was seen (minmax), or clipped by percentile, by entropy, or to the least squared error (mse).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tldeploy.data.coverage import covering
from tldeploy.data.rows import Rows
from tldeploy.exporting.quantization.quiet import quiet
from tldeploy.exporting.storage import external
from tldeploy.tasks.classification import Classification, Tensors

BATCH = 8
# As onnxruntime has them; with more, its search by entropy takes seconds a tensor.
BINS = {"percentile": 2048, "entropy": 128, "mse": 2048}
MOST_CANDIDATES = 512
LEVELS = 255


def covering_batches(task: Classification, rows: Rows, count: int) -> list[Tensors]:
    """`count` rows that stand for all, encoded in batches in which hardly anything is padding."""
    lengths = task.examples(rows.inputs).lengths if rows.column == "text" else None
    examples = task.examples(rows.take(covering(rows.classes, lengths, count)).inputs)
    order = np.argsort(examples.lengths, kind="stable").tolist() if examples.lengths else list(range(len(examples)))
    return [examples.batch(order[start : start + BATCH]) for start in range(0, len(order), BATCH)]


def find_ranges(
    graph: Path, batches: Sequence[Tensors], operators: Sequence[str], method: str, symmetric: bool = False
) -> Any:
    """The range of every tensor that such operators read or write, as onnxruntime's TensorsData.

    graph: fp32, with shapes. method: one of the recipe's. symmetric: integers will lie around zero.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    kind = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    options: dict[str, Any] = {"symmetric": symmetric}
    if method != "minmax":
        options["num_bins"] = BINS[method]
    with tempfile.TemporaryDirectory() as folder, quiet():
        calibrator = create_calibrator(
            graph,
            list(operators),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            use_external_data_format=external(graph).exists(),
            calibrate_method=kind.get(method, CalibrationMethod.Entropy),
            extra_options=options,
        )
        if method == "mse":
            calibrator.collector = _squared_error_collector(symmetric)
        for batch in batches:
            calibrator.collect_data(_OneBatch(batch))
        return calibrator.compute_data()


class _OneBatch:
    """onnxruntime's CalibrationDataReader over one batch."""

    def __init__(self, batch: Tensors) -> None:
        self._left: list[Tensors] = [batch]

    def get_next(self) -> Tensors | None:
        return self._left.pop() if self._left else None


def _squared_error_collector(symmetric: bool) -> Any:
    """onnxruntime's histograms as they are; only the choice of a range from one is another."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    class SquaredError(HistogramCollector):  # type: ignore[misc]
        def get_entropy_threshold(self, histogram: Any, num_quantized_bins: int) -> tuple[Any, Any]:
            counts, edges, lowest, highest = histogram[:4]
            low, high = least_error_range(counts, edges, float(lowest), float(highest), symmetric)
            return edges.dtype.type(low), edges.dtype.type(high)

    return SquaredError("entropy", symmetric, BINS["mse"], 0, 0, "same")


def least_error_range(
    counts: NDArray[Any], edges: NDArray[Any], lowest: float, highest: float, symmetric: bool
) -> tuple[float, float]:
    """The range [low, high] that loses least when a histogram's values are clipped to it and rounded to 255 steps.

    counts, edges: [bins], [bins + 1], around zero. What lies inside loses step² / 12 by rounding, what lies outside the
    square of its distance. Source: Banner et al., Post-training 4-bit quantization of convolution networks for
    rapid-deployment, NeurIPS 2019, section 3; the sweep as in Wu et al., arXiv:2004.09602, section 5.
    """
    half = len(counts) // 2
    centres = (edges[:-1].astype(np.float64) + edges[1:]) / 2
    width = float(edges[-1] - edges[-2])

    def error(ends: tuple[float, float]) -> float:
        low, high = ends
        step = (max(high, 0.0) - min(low, 0.0)) / LEVELS
        beyond = centres - np.clip(centres, low, high)
        lost = np.where(beyond == 0, step**2 / 12, beyond**2)
        # Zero itself is always one of the integers, and is what ReLU and masks give most of.
        lost[half - 1 : half + 1] = np.minimum(lost[half - 1 : half + 1], width**2 / 3)
        return float(counts @ lost)

    limits = edges[half + 1 :: max(1, half // MOST_CANDIDATES)].astype(np.float64)
    limits = np.append(limits, edges[-1])
    ends = [(-t, t) if symmetric else (max(lowest, -t), min(highest, t)) for t in limits.tolist()]
    return min(ends, key=error)
