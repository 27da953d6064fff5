"""Train a trial again from its record, and hold every number against the recorded one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from gantune.data.data_set import open_data
from gantune.errors import RunError, SpecError
from gantune.metrics.reference_file import check_reference, load_reference
from gantune.objectives import OF_MACHINES
from gantune.progress import Progress
from gantune.results import Row
from gantune.run import Run
from gantune.space import load_trial
from gantune.threads import on_threads
from gantune.trial import train_trial
from gantune.writing import moved

STATES = ("finished", "collapsed")  # that a trial comes to by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One report, trained again. `differences`: recorded and present value of every number that is not the same.

    `numbers` are those compared: none where the record lacks the report.
    """

    samples_seen: int
    score: float | None
    numbers: int
    differences: Mapping[str, tuple[float | str | None, float | str | None]]


def replay(run: Run, number: int, repeat: int, folder: Path, device: torch.device) -> Iterator[Replayed]:
    """The reports of a trial, trained in `folder` as far as it came in its run.

    The same on one kind of machine, device and count of threads, which is the run's own; what takes time is never the
    same, and is left out. One that went on in smaller chunks is trained in those that it began with. Raises RunError
    where there is no such trial, or nothing to compare with; DataError where the data are no longer the same.
    """
    recorded = _reports(run, number, repeat)
    written, dataset = run.trial_folder(number, repeat) / "config.yaml", run.manifest()["space"]["data"]["dataset"]
    try:
        config = load_trial(_fetched(run, written), moved(dataset))
    except SpecError as error:
        raise RunError(f"{run.files.where(written)}: is damaged; restore it, or replay another trial") from error
    images, reference = open_data(config.data), load_reference(_fetched(run, run.reference_path))
    check_reference(images, config.objective, reference, run.files.fetch(run.data_path))
    chunks = int(next(iter(recorded.values())).metrics.get("micro_batches", 1))
    with on_threads(max(1, int(run.resources().get("cpus_per_trial", 1)))):
        for progress in train_trial(config, images, reference, folder, device, micro_batches=chunks):
            yield _compared(recorded.pop(progress.samples_seen, None), progress)
            if not recorded:
                return
        for row in recorded.values():  # reports that did not come again
            yield Replayed(
                samples_seen=row.samples_seen, score=None, numbers=1, differences={"score": (row.score, None)}
            )


def _fetched(run: Run, path: Path) -> Path:
    """A file of the run that is there. Raises RunError where it is not."""
    if not run.files.fetch(path).exists():
        raise RunError(f"{run.files.where(path)}: is gone, and no trial can be trained again without it; restore it")
    return path


def _reports(run: Run, number: int, repeat: int) -> dict[int, Row]:
    """The rows of a trial that hold measurements, by samples seen; of two at one moment, the later."""
    rows = run.rows()
    own = [row for row in rows if (row.trial, row.repeat) == (number, repeat)]
    if taken := next((row for row in own if row.donor is not None), None):
        raise RunError(
            f"{run.shown}: trial {number} cannot be trained again by itself: it {taken.cause.partition(':')[0]}, and "
            "the weights of that moment are gone; replay a trial that took nothing over"
        )
    found = {row.samples_seen: row for row in own if row.samples_seen}
    if not found:
        told = sorted({row.trial for row in rows if row.repeat == repeat})
        have = f"it has #{told[0]} to #{told[-1]}" if told else "it has none"
        raise RunError(f"{run.shown}: no trial {number}{f'.{repeat}' if repeat else ''} has reported; {have}")
    return dict(sorted(found.items()))


def _compared(row: Row | None, progress: Progress) -> Replayed:
    if row is None:
        return Replayed(samples_seen=progress.samples_seen, score=progress.score, numbers=0, differences={})
    now: dict[str, float | str | None] = {
        "score": progress.score,
        "best_score": progress.best_score,
        **progress.metrics,
    }
    then: dict[str, float | str | None] = {"score": row.score, "best_score": row.best_score, **row.metrics}
    if progress.state == "finished" and row.state not in STATES:  # the record lacks its end, and the final metrics
        now = {name: value for name, value in now.items() if name in then}
    elif row.state in STATES or progress.state in STATES:
        now["state"], then["state"] = progress.state, row.state
    names = [name for name in dict.fromkeys([*now, *then]) if name not in OF_MACHINES]
    differences = {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}
    return Replayed(
        samples_seen=progress.samples_seen, score=progress.score, numbers=len(names), differences=differences
    )
