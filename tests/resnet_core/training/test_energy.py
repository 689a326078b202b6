"""Energy from counters where they can be read, else from stated watts."""

from pathlib import Path

import pytest
import torch

from resnet_core.training.energy import WATTS_PER_CORE, EnergyMeter, read_packages, used


def package(folder: Path, number: int, microjoules: int, most: int = 262_143_328_850) -> None:
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")


def test_the_counters_of_all_packages_are_summed_and_what_lies_below_them_is_not(tmp_path: Path) -> None:
    package(tmp_path, 0, 1_000_000)
    package(tmp_path, 1, 5_000_000)
    (tmp_path / "intel-rapl:0:0").mkdir()  # the cores of package 0: no counter of its own is needed
    meter = EnergyMeter(torch.device("cpu"), powercap=tmp_path)
    package(tmp_path, 0, 3_601_000_000)
    package(tmp_path, 1, 3_605_000_000)
    found = meter.stop()
    assert found.watt_hours == pytest.approx(2.0)
    assert "measured (RAPL)" in found.how


def test_a_counter_that_starts_over_is_followed() -> None:
    assert used((9_000_000, 10_000_000), (2_000_000, 10_000_000)) == pytest.approx(3.0)
    assert used((2_000_000, 10_000_000), (9_000_000, 10_000_000)) == pytest.approx(7.0)


def test_without_counters_the_watts_are_assumed_and_said(tmp_path: Path) -> None:
    assert read_packages(tmp_path / "none") == {}
    (tmp_path / "intel-rapl:0").mkdir()  # and none of its files may be read
    meter = EnergyMeter(torch.device("cpu"), powercap=tmp_path)
    meter.started -= 7200.0
    found = meter.stop()
    watts = torch.get_num_threads() * WATTS_PER_CORE
    assert found.watt_hours == pytest.approx(2 * watts, rel=0.01)
    assert f"assumed to take {watts:.0f} W" in found.how
