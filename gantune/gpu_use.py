"""How busy GPUs are, as NVIDIA's driver counts it."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any


def gpu_use(uuids: Sequence[str]) -> dict[str, float]:
    """Shares of GPUs, by the driver's names for them: `gpu_utilization` and `gpu_memory` of all together, 0 to 1.

    What the driver does not tell, as of a part of a GPU, is left out.
    """
    nvml = _nvml() if uuids else None
    if nvml is None:
        return {}
    use = {}
    with contextlib.suppress(nvml.NVMLError):
        handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        memory = [nvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        use["gpu_memory"] = sum(each.used for each in memory) / sum(each.total for each in memory)
        busy = [nvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles]
        use["gpu_utilization"] = sum(busy) / len(busy) / 100
    return use


@functools.cache
def _nvml() -> Any:
    """The driver's library; None where there is none."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
