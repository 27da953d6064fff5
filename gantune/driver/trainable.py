"""The Ray Tune trainable: a thin shell over train_trial. Actors are reused, so modules and features stay loaded."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from gantune.config import DataConfig
from gantune.data.data_set import DataSet, open_data
from gantune.errors import GantuneError
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import check_reference, load_reference
from gantune.space import load_trial
from gantune.trainer import choose_device
from gantune.trial import Progress, set_aside_damaged, train_trial


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

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in a new actor."""
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune to use the actor for another trial."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._number: int = config["number"]
        self._trial = self._train(**{key: value for key, value in config.items() if key != "number"})

    def _train(self, folder: str, reference: str, threads: int, device: str) -> Iterator[Progress]:
        torch.set_num_threads(threads)
        config = load_trial(Path(folder) / "config.yaml")
        images, yardstick = _images(config.data), _reference(Path(reference))
        check_reference(images, config.objective, yardstick)
        set_aside_damaged(Path(folder))
        yield from train_trial(config, images, yardstick, Path(folder), choose_device(device))

    def step(self) -> dict[str, Any]:
        """Train to the next report. What the user must mend is reported, not raised: a retry would not help."""
        try:
            progress = next(self._trial)
        except GantuneError as error:
            return {"number": self._number, "failure": str(error), "done": True}
        return {
            "number": self._number,
            "samples_seen": progress.samples_seen,
            "score": progress.score,
            "metrics": dict(progress.metrics),
            "state": progress.state,
            "progress": progress.as_dict(),
            "done": progress.state != "running",
        }
