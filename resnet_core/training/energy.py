"""What a piece of work took in energy: by the counters of processor and GPU where they can be read, else by
seconds and an assumed power.

The processor's counters are RAPL's, of the whole package: what else ran at the same time is in them. Most
machines let only root read them. A GPU's counter is NVML's, for which nvidia-ml-py must be installed.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")
# Per busy core, memory and losses included: server processors are rated at 6 to 10 W a core.
WATTS_PER_CORE = 10.0
# Of a busy GPU; data-centre cards are rated at 250 to 700 W.
_WATTS_PER_GPU = 400.0


@dataclass(frozen=True)
class _Energy:
    """watt_hours: of `seconds` of work. how: what was measured, and what assumed."""

    watt_hours: float
    seconds: float
    how: str


class EnergyMeter:
    """Counts from when it is made."""

    def __init__(self, device: torch.device, devices: int = 1, powercap: Path = _POWERCAP) -> None:
        self.device, self.devices, self.powercap = device, devices, powercap
        self.started = time.monotonic()
        self.packages = read_packages(powercap)
        self.gpu = _read_gpus(device, devices)

    def stop(self) -> _Energy:
        """The energy since then."""
        seconds = time.monotonic() - self.started
        joules, said = self._processor(seconds)
        if self.device.type == "cuda":
            of_gpu, how = self._gpus(seconds)
            joules, said = joules + of_gpu, f"{said}; {how}"
        elif self.device.type != "cpu":
            said = f"{said}; {self.device.type} is not counted"
        return _Energy(round(joules / 3600, 3), round(seconds, 1), said)

    def _processor(self, seconds: float) -> tuple[float, str]:
        now = read_packages(self.powercap)
        if now and now.keys() == self.packages.keys():
            return sum(used(self.packages[name], now[name]) for name in now), "processor measured (RAPL)"
        cores = torch.get_num_threads() * (self.devices if self.device.type == "cpu" else 1)
        watts = cores * WATTS_PER_CORE
        return seconds * watts, f"processor assumed to take {watts:.0f} W"

    def _gpus(self, seconds: float) -> tuple[float, str]:
        now = _read_gpus(self.device, self.devices)
        if now is not None and self.gpu is not None and now >= self.gpu:
            return now - self.gpu, "GPU measured (NVML)"
        watts = self.devices * _WATTS_PER_GPU
        return seconds * watts, f"GPU assumed to take {watts:.0f} W"


def read_packages(powercap: Path = _POWERCAP) -> dict[str, tuple[int, int]]:
    """Each package's counter and where it starts over, both in microjoules; none where it may not be read."""
    found: dict[str, tuple[int, int]] = {}
    try:
        for zone in sorted(powercap.glob("intel-rapl:*")):
            if zone.name.count(":") == 1:  # the packages; what lies below is in them
                counter, most = ((zone / name).read_text() for name in ("energy_uj", "max_energy_range_uj"))
                found[zone.name] = int(counter), int(most)
    except (OSError, ValueError):
        return {}
    return found


def used(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Joules between two readings; the counter may have started over once."""
    gone = after[0] - before[0]
    return (gone if gone >= 0 else gone + after[1]) / 1e6


def _read_gpus(device: torch.device, devices: int) -> float | None:
    """Joules that the GPUs have taken since their driver was loaded; None where nobody tells."""
    if device.type != "cuda":
        return None
    first = (device.index or 0) if devices == 1 else 0
    with suppress(Exception):  # NVML's errors have no common class without it
        pynvml = import_module("pynvml")  # of nvidia-ml-py, which need not be installed
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(first + k) for k in range(devices)]
        return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1000
    return None
