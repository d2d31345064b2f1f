"""What the scorecard says of a network that few rows are there to measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tldeploy.exporting.parity import Parity
from tldeploy.exporting.scorecard import ENOUGH, again_and_again, measure_variants
from tldeploy.exporting.source import Source
from tldeploy.exporting.targets import place_for
from tldeploy.runtime.onnx import OnnxRunner
from tldeploy.tasks.classification import Row


@pytest.mark.parametrize(("rows", "asked"), [(1, 160), (3, 162), (100, 200), (160, 160), (161, 161)])
def test_every_row_is_asked_equally_often_and_enough_are(rows: int, asked: int) -> None:
    found = again_and_again([str(number) for number in range(rows)])
    assert (len(found), ENOUGH) == (asked, 160)
    assert {found.count(row) for row in found} == {asked // rows}
    assert found[:rows] == [str(number) for number in range(rows)]


def test_three_rows_are_scored_once_and_timed_until_there_is_an_interval(text: Source) -> None:
    three = text.validation.take([0, 1, 2])

    class Overflowing(OnnxRunner):
        def predict(self, rows: Sequence[Row]) -> NDArray[np.float32]:
            return super().predict(rows) * np.float32(np.nan if rows[0] == three.inputs[1] else 1)

    runners = [kind(text.graph, text.task) for kind in (OnnxRunner, Overflowing)]
    parities = [Parity([(1, 7)], 0.0, 0.0, 1.0)] * 2
    place = place_for("cpu", text.graph)
    whole, broken = measure_variants([text.graph] * 2, runners, parities, text.task, three, place)
    assert (whole.metric.rows, broken.drop.rows) == (3, 3)
    assert (whole.not_finite, broken.not_finite) == (0, 1)
    assert len(whole.golden) == 3
    assert broken.speed is not None
    for gain in (broken.speed.speedup, broken.speed.throughput_speedup):
        assert gain.low < gain.value < gain.high
