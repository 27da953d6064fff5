"""The Ray Tune trainable: a thin shell over train_trial. Actors are reused, so modules and features stay loaded."""

import functools
import gc
import os
import pickle
import socket
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray import tune

from gantune.config import DataConfig, TrialConfig
from gantune.data.data_set import DataSet, open_data
from gantune.driver.ranks import ranks
from gantune.driver.workplace import workplace
from gantune.errors import DataError, GantuneError, ShortOfMemoryError, StorageError
from gantune.gpu_use import gpu_use
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import check_reference, load_reference
from gantune.mirror import DATA
from gantune.progress import Progress
from gantune.trainer import choose_device
from gantune.trial import set_aside_damaged, train_trial

SECONDS_BETWEEN_LOOKS = 0.5
Fault = Literal["configuration", "memory", "machine"]


class _MachineError(GantuneError):
    """Data or a reference that were there when the search began."""


def fault_of(error: Exception) -> Fault:
    """Whose fault an error is."""
    if isinstance(error, ShortOfMemoryError):
        return "memory"
    return "machine" if isinstance(error, _MachineError | StorageError | DataError | OSError) else "configuration"


@functools.cache
def _end_with_parent() -> None:
    """A worker whose raylet is gone ends: nobody hears it, and its trial is trained by another."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _without_gpu(device: str) -> str:
    """What to tell of a machine on which Ray counts a GPU that torch does not see: nothing where all is well."""
    if device == "cpu" or torch.cuda.is_available():
        return ""
    return f"{socket.gethostname()}: Ray counts GPUs there and torch sees none, so its trials train on the CPU"


@functools.cache
def _place() -> str:
    """The machine's address, Ray's number of the node there, and the GPUs of this process as Ray counts them."""
    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU", [])
    return " ".join([ray.util.get_node_ip_address(), context.get_node_id()[:8], *(f"gpu{gpu}" for gpu in gpus)])


def _use() -> dict[str, float]:
    """How busy the GPUs of this process are; nothing where it has trained on none."""
    return gpu_use(_gpus()) if torch.cuda.is_available() else {}


@functools.cache
def _gpus() -> tuple[str, ...]:
    """Those GPUs, by the names that their driver has for them."""
    return tuple(f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count()))


@functools.lru_cache(maxsize=1)
def _images(config: DataConfig) -> DataSet:
    return open_data(config)


@functools.lru_cache(maxsize=1)
def _reference(path: Path) -> Reference:
    return load_reference(path)


class GanTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains the trial whose folder it is given; a step is a report.

    The trial's own checkpoints are the truth: set up again after a crash, it continues from them.
    """

    _trial: Generator[Progress] | None = None

    def setup(self, config: dict[str, Any], images: DataSet | None = None) -> None:
        """Called by Tune in a new actor; with the data on a cluster, whose machines may not have them."""
        self._given = images
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune to use the actor for another trial."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        _end_with_parent()
        self._number: int = config["number"]
        self._remark = _without_gpu(config["device"])
        self._end()  # what this actor trained before: its further processes go with it
        self._trial = self._train(**{key: value for key, value in config.items() if key not in ("number", "alone")})

    def _end(self) -> None:
        if self._trial is not None:
            self._trial.close()

    def cleanup(self) -> None:
        """Called by Tune before the actor ends."""
        self._end()

    def _train(
        self,
        pickled: bytes,
        folder: str,
        reference: str,
        place: str,
        threads: int,
        device: str,
        micro_batches: int,
        processes: int,
    ) -> Generator[Progress]:
        torch.set_num_threads(threads)
        config: TrialConfig = pickle.loads(pickled)
        with workplace(place, folder, reference) as here:
            try:
                images = _images(config.data) if self._given is None else self._given
                yardstick = _reference(here.reference)
                check_reference(images, config.objective, yardstick, here.reference.with_name(DATA))
            except GantuneError as error:  # the driver could read them when it began
                raise _MachineError(str(error)) from error
            self._remark = "\n".join(filter(None, [self._remark, *set_aside_damaged(here.folder)]))
            where = choose_device("cpu" if _without_gpu(device) else device)
            wish = {
                **{"pickled": pickled, "folder": str(here.folder), "reference": str(here.reference)},
                **{"threads": threads, "device": where.type, "micro_batches": micro_batches, "images": self._given},
            }
            with ranks(processes, where, wish) as world:
                reports = train_trial(config, images, yardstick, here.folder, where, world, micro_batches)
                yield from here.sent(reports)

    def step(self) -> dict[str, Any]:
        """Train to the next report. What a person must mend is reported, not raised: a retry would not help.

        `fault` says whose it is: the machine's, the memory's, or the configuration's and its components'.
        """
        try:
            assert self._trial is not None
            progress = next(self._trial)
        except (GantuneError, OSError) as error:
            fault, text = fault_of(error), str(error)
            failed = {"number": self._number, "failure": text, "fault": fault, "done": True}
        else:
            failed = {}
        if failed:
            self._forget()
            return failed
        return {
            "number": self._number,
            "samples_seen": progress.samples_seen,
            "score": progress.score,
            "metrics": tuple(progress.metrics.items()),  # a dict would reach the scheduler flattened
            "state": progress.state,
            "progress": replace(progress, place=_place(), metrics={**progress.metrics, **_use()}).as_dict(),
            "done": progress.state != "running",
            "remark": self._remark,
        }

    def _forget(self) -> None:
        """Give back what a trial that failed has held: the next one may be trained by this very actor."""
        self._end()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
