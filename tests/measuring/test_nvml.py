"""What a GPU says of itself, by a stand-in for the driver's library."""

from __future__ import annotations

import time

import pytest

from tests.measuring.driver import Nvml, no_driver
from tldeploy.measuring.nvml import Memory, find_gpus, utilisation


def test_each_gpu_says_what_it_is_and_does() -> None:
    driver = Nvml()
    first, second = find_gpus(lambda name: driver)
    driver.percent, driver.used, driver.millijoules = 83, 5_250_000_000, 2500
    assert (first.name, first.uuid, second.uuid) == ("gpu 0", "GPU-first", "GPU-second")
    assert (first.busy_percent(), first.used_mb(), first.energy_j()) == (83, 5250.0, 2.5)


def test_a_machine_without_a_driver_and_a_gpu_that_does_not_tell_say_so() -> None:
    with pytest.raises(OSError, match=r"libnvidia-ml\.so\.1: cannot open"):
        find_gpus(no_driver)
    second = find_gpus(lambda name: Nvml())[1]
    with pytest.raises(OSError, match="NVML does not tell the UtilizationRates of gpu 1"):
        second.busy_percent()
    assert second.used_mb_of(1) is None


def test_a_driver_that_is_older_than_a_function_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Nvml, "nvmlDeviceGetComputeRunningProcesses_v3")
    monkeypatch.delattr(Nvml, "nvmlDeviceGetMemoryInfo")
    gpu = find_gpus(lambda name: Nvml())[0]
    assert gpu.used_mb_of(1) is None
    with pytest.raises(OSError, match="MemoryInfo"):
        gpu.used_mb()


@pytest.mark.parametrize("others", [0, 200], ids=["alone", "with more than there is room for at first"])
def test_the_memory_of_an_engine_is_its_process_s_own(others: int) -> None:
    driver = Nvml()
    memory = Memory(find_gpus(lambda name: driver)[0])
    driver.processes = {10_000 + number: 7 for number in range(others)} | {42: 3_000_000}
    driver.used = 900_000_000
    assert memory.mb(42) == 3.0


@pytest.mark.parametrize("pid", [42, 43], ids=["not told", "not named"])
def test_where_the_process_is_hidden_it_is_what_was_added_while_it_was_at_work(pid: int) -> None:
    driver = Nvml()
    driver.processes, driver.used = {42: None}, 1_000_000_000
    memory = Memory(find_gpus(lambda name: driver)[0])
    with memory.growing():
        driver.used += 500_000_000
    driver.used += 700_000_000  # another engine's
    with memory.growing():
        driver.used += 20_000_000
    assert memory.mb(pid) == 520.0


def test_utilisation_is_sampled_while_the_block_runs_but_not_from_its_beginning() -> None:
    driver = Nvml()
    gpu = find_gpus(lambda name: driver)[0]
    driver.percent = 5  # of what ran before
    with utilisation(gpu, after_s=0.1, every_s=0.01) as percents:
        driver.percent = 90
        time.sleep(0.3)
    assert set(percents) == {90}
    driver.percent = 5
    sampled = len(percents)
    time.sleep(0.05)
    assert len(percents) == sampled


def test_utilisation_that_is_not_told_or_not_waited_for_leaves_the_list_empty() -> None:
    first, second = find_gpus(lambda name: Nvml())
    with utilisation(second, after_s=0.0) as percents:
        time.sleep(0.05)
    assert percents == []
    with utilisation(first, after_s=60.0) as percents:
        pass
    assert percents == []
