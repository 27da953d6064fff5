"""Reports as rows of the results, and those reports that checkpoints hold while the results lack them.

A worker writes `best`, then `latest`, and only then does the driver hear of the report and write its row. Whatever
ends a driver between the two, or a lost part of the results, leaves checkpoints whose report has no row. Their
metadata hold all that the row takes, so that every reader sees the row, and the next driver writes it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantune.config import Scalar
from gantune.mirror import Here
from gantune.progress import Progress
from gantune.results import Row

Key = tuple[int, int]  # a trial and a repeat
LATEST, BEST = "latest.safetensors", "best.safetensors"


def row_of(
    progress: Progress,
    key: Key,
    *,
    seed: int,
    parameters: Mapping[str, Scalar],
    run_seconds: float,
    state: str = "",
    cause: str = "",
    stopped_by: str = "",
) -> Row:
    """The row of a report. state, cause: of the report itself where nothing is given."""
    return Row(
        trial=key[0],
        repeat=key[1],
        state=state or progress.state,
        samples_seen=progress.samples_seen,
        score=progress.score,
        best_score=progress.best_score,
        metrics=progress.metrics,
        seed=seed,
        config=json.dumps(parameters),
        cause=cause or progress.verdict.cause,
        verdict=progress.verdict.state,
        evidence=progress.verdict.evidence,
        trial_seconds=progress.seconds,
        run_seconds=run_seconds,
        place=progress.place,
        stopped_by=stopped_by,
    )


def key_of(folder: str) -> Key | None:
    """The trial and repeat of a folder's name, such as 0007 or 0007.1; None where it is another's folder."""
    number, _, repeat = folder.partition(".")
    return (int(number), int(repeat or 0)) if number.isdecimal() and (repeat or "0").isdecimal() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A report that a checkpoint holds and the results lack. `late`: the trial was ended before it."""

    key: Key
    progress: Progress
    seed: int
    parameters: Mapping[str, Scalar]
    run_seconds: float
    late: bool
    path: Path

    @property
    def row(self) -> Row:
        """Its row."""
        return row_of(self.progress, self.key, seed=self.seed, parameters=self.parameters, run_seconds=self.run_seconds)


def missing_rows(files: Here, rows: Sequence[Row]) -> list[Row]:
    """Rows of the reports that a run's checkpoints hold and `rows`, in order, lack."""
    return [kept.row for kept in missing_reports(files, rows) if not kept.late]


def missing_reports(files: Here, rows: Sequence[Row]) -> list[Kept]:
    """The reports that a run's checkpoints hold and `rows`, in order, lack; in the order of samples seen.

    Of a run at a URI only trials that have not ended are looked at: each costs a request.
    """
    known: dict[Key, list[Row]] = {}
    for row in rows:
        own = known.setdefault((row.trial, row.repeat), [])
        if row.starts_over:
            own.clear()
        own.append(row)
    found: dict[tuple[Key, int], Kept] = {}
    clock = max((row.run_seconds for row in rows), default=0.0)
    for path in sorted(files.checkpoints()):  # `latest` after `best`: at one moment it knows more
        key = key_of(path.parent.name)
        own = known.get(key, []) if key is not None else []
        end = next((row for row in own if row.ended and row.state != "failed"), None)
        if key is None or path.name not in (LATEST, BEST) or (files.remote and end is not None):
            continue
        report = _report_in(files, path)
        if report is None or any(row.samples_seen == report[0].samples_seen for row in own):
            continue
        progress, seed, parameters = report
        later = [row.run_seconds for row in own if row.samples_seen > progress.samples_seen or row is end]
        found[key, progress.samples_seen] = Kept(
            key=key,
            progress=progress,
            seed=seed,
            parameters=parameters,
            run_seconds=min(later, default=clock),
            late=end is not None and progress.samples_seen > end.samples_seen,
            path=path,
        )
    return sorted(found.values(), key=lambda kept: (kept.key, kept.progress.samples_seen))


def _report_in(files: Here, path: Path) -> tuple[Progress, int, Mapping[str, Scalar]] | None:
    """A checkpoint's report, with its trial's seed and parameters; None where it cannot be read or holds none."""
    try:
        meta: dict[str, Any] = json.loads((files.metadata(path) or {})["meta"])
        if "donor" in meta:  # another trial's report: the row that tells of it is the driver's to write
            return None
        return Progress.from_dict(meta["progress"]), int(meta["seed"]), meta["parameters"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
