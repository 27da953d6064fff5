"""The Ray Tune trainable: a thin shell over train_trial. Actors are reused, so data and features stay loaded."""

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from gantune.config import DataConfig
from gantune.data.image_set import ImageSet, open_images
from gantune.errors import GantuneError
from gantune.metrics.reference import Reference, load_reference
from gantune.space import load_trial
from gantune.trainer import choose_device
from gantune.trial import Progress, train_trial


@functools.lru_cache(maxsize=1)
def _images(config: DataConfig) -> ImageSet:
    return open_images(config)


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
        self._trial = self._train(Path(config["folder"]), Path(config["reference"]), config["threads"])

    def _train(self, folder: Path, reference: Path, threads: int) -> Iterator[Progress]:
        torch.set_num_threads(threads)
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        config = load_trial(folder / "config.yaml")
        yield from train_trial(config, _images(config.data), _reference(reference), folder, choose_device())

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
            "progress": progress.as_dict(),
            "done": progress.state != "running",
        }
