"""How busy the GPUs are, from a library that stands in for NVIDIA's."""

import sys
from types import SimpleNamespace

import pytest

from gantune import gpu_use as module
from gantune.driver import trainable
from gantune.gpu_use import gpu_use
from gantune.progress import Progress


class NoneThereError(Exception):
    """What NVIDIA's library raises."""


class Library:
    """NVIDIA's, of a machine with these GPUs: their use in percent, and memory used and in all."""

    NVMLError = NoneThereError

    def __init__(self, gpus=(), *, driver=True, parts=False):
        self._gpus, self._driver, self._parts = gpus, driver, parts

    def nvmlInit(self):  # noqa: N802
        if not self._driver:
            raise NoneThereError("no driver")

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid not in self._gpus:
            raise NoneThereError(uuid)
        return uuid

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        _, used, total = self._gpus[gpu]
        return SimpleNamespace(used=used, total=total)

    def nvmlDeviceGetUtilizationRates(self, gpu):  # noqa: N802
        if self._parts:
            raise NoneThereError("not of a part of a GPU")
        return SimpleNamespace(gpu=self._gpus[gpu][0])


@pytest.fixture
def install(monkeypatch):
    def use(library):
        module._nvml.cache_clear()
        monkeypatch.setitem(sys.modules, "pynvml", library)

    yield use
    module._nvml.cache_clear()


TWO = {"GPU-a": (80, 30, 100), "GPU-b": (40, 10, 100)}


def test_use_is_that_of_the_named_gpus_together(install):
    install(Library(TWO))
    assert gpu_use(["GPU-a"]) == {"gpu_utilization": 0.8, "gpu_memory": 0.3}
    assert gpu_use(["GPU-a", "GPU-b"]) == {"gpu_utilization": pytest.approx(0.6), "gpu_memory": 0.2}


@pytest.mark.parametrize(
    ("library", "uuids"),
    [(Library(TWO), []), (Library(TWO, driver=False), ["GPU-a"]), (Library(TWO), ["GPU-c"]), (None, ["GPU-a"])],
)
def test_where_nothing_is_known_nothing_is_told(install, library, uuids):
    install(library)
    assert gpu_use(uuids) == {}


def test_of_a_part_of_a_gpu_the_memory_is_told(install):
    install(Library(TWO, parts=True))
    assert gpu_use(["GPU-a"]) == {"gpu_memory": 0.3}


def test_a_report_tells_of_its_workers_gpus_and_the_scheduler_hears_of_none(install, monkeypatch):
    install(Library(TWO))
    monkeypatch.setattr(trainable, "_place", lambda: "10.0.0.1 abcdef01 gpu0")
    monkeypatch.setattr(trainable, "_use", lambda: gpu_use(["GPU-a"]))
    worker = object.__new__(trainable.GanTrainable)
    worker._number, worker._remark = 7, ""
    worker._trial = iter([Progress(samples_seen=10, score=1.0, best_score=1.0, metrics={"recall": 0.5})])
    told = worker.step()
    assert told["progress"]["metrics"] == {"recall": 0.5, "gpu_utilization": 0.8, "gpu_memory": 0.3}
    assert told["metrics"] == (("recall", 0.5),)
