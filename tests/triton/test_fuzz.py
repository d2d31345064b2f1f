"""Some seconds of bench/fuzz.py: spoilt requests harm neither the server nor its workers."""

from __future__ import annotations

import pytest

from bench.fuzz import fuzz
from tldeploy.triton.gate import Gate


@pytest.mark.parametrize("gate", [None, Gate()], ids=["directly", "behind the gate"])
def test_nothing_that_is_sent_harms_the_server(gate: Gate | None) -> None:
    report = fuzz(5, seed=1, gate=gate)
    assert report["attacks"] > 10
    assert not report["deaths"]
    assert not report["workers_lost"]
    assert not report["wrong_answers"]
