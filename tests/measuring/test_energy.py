from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine import Engine
from tests.measuring.driver import Nvml, no_driver
from tldeploy.benchmarking.remarks import energy as energy_words
from tldeploy.benchmarking.scenarios import closed_loop as closed_loop_figures
from tldeploy.measuring.energy import Meter, find_meter
from tldeploy.measuring.scenarios import closed_loop

RANGE_UJ = 262_143_328_850  # of a package in practice


def zone(powercap: Path, place: str, name: str, energy_uj: int) -> Path:
    folder = powercap / f"intel-rapl:{place}"
    folder.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", RANGE_UJ)):
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


def meter(powercap: Path) -> Meter:
    return find_meter(powercap, no_driver)


def test_what_packages_and_memory_drew_is_added_up_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", "package-0", 5_000_000), zone(tmp_path, "1", "package-1", 0)
    memory = zone(tmp_path, "0:1", "dram", 1_000_000)
    core, board = zone(tmp_path, "0:0", "core", 0), zone(tmp_path, "2", "psys", 0)
    found = meter(tmp_path)
    assert found.as_json() == {"counted": ["package-0", "dram", "package-1"], "why_not": None}
    before = found.read()
    assert found.since(before) == 0
    for file, uj in ((first, 9_500_000), (second, 250_000), (memory, 1_750_000), (core, 10**9), (board, 10**9)):
        file.write_text(f"{uj}\n")
    assert found.since(before) == pytest.approx(4.5 + 0.25 + 0.75)


def test_a_counter_that_begins_again_is_followed(tmp_path: Path) -> None:
    energy = zone(tmp_path, "0", "package-0", RANGE_UJ - 2_000_000)
    found = meter(tmp_path)
    before = found.read()
    energy.write_text("3000000\n")
    assert found.since(before) == pytest.approx(5)


def test_a_machine_without_counters_says_so_and_gives_no_number(tmp_path: Path) -> None:
    found = meter(tmp_path / "powercap")
    assert math.isnan(found.since(found.read()))
    assert found.counters == ()
    assert found.why_not == f"there are no power zones in {tmp_path / 'powercap'}, as on most virtual machines"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads whatever it likes")
def test_a_counter_that_only_root_may_read_is_said_to_be_one(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 0).chmod(0)
    assert "root can read it" in (meter(tmp_path).why_not or "")


def test_one_unreadable_package_is_as_none_at_all(tmp_path: Path) -> None:
    """Half of the machine would pass for the whole."""
    zone(tmp_path, "0", "package-0", 0)
    energy = zone(tmp_path, "1", "package-1", 0)
    energy.unlink()
    found = meter(tmp_path)
    assert found.counters == ()
    assert found.why_not == f"{energy} cannot be read"
    energy.write_text("no number\n")
    assert meter(tmp_path).why_not == f"{energy} cannot be read"


def test_a_counter_that_is_gone_afterwards_gives_no_number(tmp_path: Path) -> None:
    energy = zone(tmp_path, "0", "package-0", 0)
    found = meter(tmp_path)
    before = found.read()
    energy.unlink()
    assert math.isnan(found.since(before))


def test_the_closed_loop_counts_each_round_of_each_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of the one draws 2 J, of the other 6 J: their joules are found by engine, as those of a request."""
    energy = zone(tmp_path, "0", "package-0", RANGE_UJ - 100_000_000)
    monkeypatch.setattr("tldeploy.measuring.scenarios.closed.find_meter", lambda: meter(tmp_path))

    class Drawing(Engine):
        def __init__(self, name: str, joules: int) -> None:
            super().__init__(name, lambda number: 0, lambda number: 0.002)
            self.joules = joules

        def predict(self, rows: Sequence[str]) -> Any:
            now_uj = int(energy.read_text()) + self.joules * 1_000_000
            energy.write_text(str(now_uj % RANGE_UJ))
            return super().predict(rows)

    load = closed_loop([Drawing("thrifty", 2), Drawing("thirsty", 6)], ["1"], [1], 0.06, "test")
    asked = load.completed + 1  # and one a round that is not kept
    np.testing.assert_allclose(load.joules, asked * np.array([2, 6])[:, None, None])
    found = closed_loop_figures(load, 1)["1"]["joules_per_request"]
    assert found == pytest.approx(6 * asked[1].sum() / load.completed[1].sum())


def test_the_report_says_what_counted_or_why_nothing_did(tmp_path: Path) -> None:
    assert energy_words(meter(tmp_path).as_json()) == (
        f"energy: this machine does not tell it: there are no power zones in {tmp_path}, as on most virtual machines"
    )
    zone(tmp_path, "0", "package-0", 0)
    zone(tmp_path, "0:1", "dram", 0)
    counted = "energy: counted by package-0, dram, all that the machine drew meanwhile included"
    assert energy_words(meter(tmp_path).as_json()) == counted


def test_a_gpu_counts_beside_the_processor_and_without_it(tmp_path: Path) -> None:
    nvml = Nvml()
    alone = find_meter(tmp_path, lambda name: nvml)
    assert [counter.name for counter in alone.counters] == ["gpu 0"]
    assert alone.why_not is not None
    energy = zone(tmp_path, "0", "package-0", 0)
    both = find_meter(tmp_path, lambda name: nvml)
    before = alone.read(), both.read()
    nvml.millijoules += 2500
    energy.write_text("1000000\n")
    assert (alone.since(before[0]), both.since(before[1])) == pytest.approx((2.5, 3.5))
