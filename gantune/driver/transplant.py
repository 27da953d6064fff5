"""Put one trial's weights, optimizers and counters where another trial continues from."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.config import TrialConfig
from gantune.errors import CheckpointError
from gantune.mirror import Here
from gantune.progress import Progress
from gantune.reports import BEST, LATEST
from gantune.writing import trial_document

STREAMS = "rng."


def transplant(donor: Path, folder: Path, config: TrialConfig, best_score: float | None, seconds: float) -> None:
    """Write the `latest` of one trial's folder from another's; done again, it comes to the same.

    The trial keeps its streams of randomness, its training time and its `best`; where best_score is None, there is none
    to keep. Raises CheckpointError where the donor's cannot be read or the trial's cannot be written.
    """
    tensors, meta = read_checkpoint(donor / LATEST, "trial")
    with contextlib.suppress(CheckpointError):  # a trial whose own file is lost goes on with the donor's streams
        own, _ = read_checkpoint(folder / LATEST, "trial")
        tensors |= {name: value for name, value in own.items() if name.startswith(STREAMS)}
    progress = replace(Progress.from_dict(meta["progress"]), best_score=best_score, seconds=seconds)
    meta |= {
        "config": trial_document(config),
        "parameters": config.parameters(),
        "seed": config.seed,
        "progress": progress.as_dict(),
        "donor": donor.name,
    }
    if best_score is None:
        (folder / BEST).unlink(missing_ok=True)
    write_checkpoint(folder / LATEST, "trial", tensors, meta)


@contextlib.contextmanager
def moved(files: Here, donor: Path, folder: Path) -> Iterator[None]:
    """Have what a transplant reads at hand, and let what it wrote lie where the run does, in the same order."""
    for path in (donor / LATEST, folder / LATEST, folder / BEST):
        files.fetch(path)
    yield
    if not (folder / BEST).exists():
        files.drop([folder / BEST])
    files.send(folder / LATEST)
