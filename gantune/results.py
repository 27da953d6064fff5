"""The results of a run as Parquet: one row a report, written by the driver alone; of several, each has its own parts.

Each report is flushed as a part of its own, so that a kill loses none; parts of about one size are merged as they
pile up, so that a row is written a few times only, however many there are.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gantune.errors import RunError
from gantune.mirror import Here
from gantune.whole import whole

SCHEMA = pa.schema(
    [
        ("trial", pa.int64()),
        ("repeat", pa.int64()),
        ("state", pa.string()),
        ("samples_seen", pa.int64()),
        ("score", pa.float64()),
        ("best_score", pa.float64()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("seed", pa.int64()),
        ("config", pa.string()),
        ("cause", pa.string()),
        ("verdict", pa.string()),
        ("evidence", pa.map_(pa.string(), pa.float64())),
        ("trial_seconds", pa.float64()),
        ("run_seconds", pa.float64()),
        ("place", pa.string()),
        ("stopped_by", pa.string()),
    ]
)
TAKES_OVER = "takes over #"  # how the cause of such a row begins
ENDED = ("finished", "pruned", "collapsed", "failed")
RESTS = "paused"  # stopped at a rung or by the end of a budget, its checkpoint kept, and may go on
SCHEDULER, USER, BUDGET = "scheduler", "user", "budget"  # who stops or pauses a trial
MERGE_AT = 100  # parts of about one size before they become one


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One report. `repeat` counts the runs of a finalist's configuration under fresh seeds; 0 is the search's own.

    `state` is running | paused | finished | pruned | collapsed | failed; `config` the parameters as JSON.

    `score` is this report's, `best_score` the trial's best so far that met the constraints; lower is better.
    `stopped_by` is who stopped or paused the trial: scheduler, user or budget. `trial_seconds` is time spent training
    the trial, `run_seconds` the run's own clock, both over all sessions. `place` is the address of the machine that
    trained it, and its GPUs there.
    """

    trial: int
    repeat: int = 0
    state: str
    samples_seen: int
    score: float | None
    best_score: float | None
    metrics: Mapping[str, float]
    seed: int
    config: str
    cause: str
    verdict: str
    evidence: Mapping[str, float]
    trial_seconds: float
    run_seconds: float
    place: str = ""
    stopped_by: str = ""

    @property
    def ended(self) -> bool:
        """Whether its trial has ended, for good or by a failure that may be tried again."""
        return self.state in ENDED

    @property
    def starts_over(self) -> bool:
        """Whether the trial begins again from its seed: what it reported before is superseded."""
        return self.state == "running" and self.samples_seen == 0

    @property
    def donor(self) -> int | None:
        """The trial whose weights and configuration this one has from here on, where that is what the row tells."""
        if not self.cause.startswith(TAKES_OVER):
            return None
        return int(self.cause.removeprefix(TAKES_OVER).partition(" ")[0])

    @property
    def reborn(self) -> bool:
        """Whether what the trial had come to before died with its own weights: it takes over, and has no best score."""
        return self.best_score is None and self.donor is not None


class Results:
    """The parts of one directory. A writer has parts of its own; any number of readers, who see whole parts only."""

    def __init__(self, folder: Path, writer: str = "", files: Here | None = None) -> None:
        self._folder = folder
        self._files = files or Here(folder)
        self._prefix = f"part-{writer}" if writer else "part"
        self._told: set[Path] = set()
        self._parts_here: list[Path] | None = None  # this writer's, in order; None until they are looked for
        self._held: dict[Path, int] = {}  # rows of parts

    def for_a_reader(self) -> "Results":
        """The same directory for one who follows all writers by `news`."""
        return Results(self._folder, "nobody", self._files)

    def written(self) -> float | None:
        """When the last part was written, in seconds since 1970."""
        times = []
        for part in self._parts():
            with contextlib.suppress(FileNotFoundError):
                times.append(part.stat().st_mtime)
        return max(times, default=None)

    def written_by(self, writer: str) -> "Results":
        """The same directory for one of several writers."""
        return Results(self._folder, writer)

    def append(self, row: Row) -> None:
        """Write one row durably. Raises RunError where it cannot be written."""
        self._write([row])
        size = 1
        while len(alike := [part for part in self._own() if size <= self._count(part) < size * MERGE_AT]) >= MERGE_AT:
            self._merge(alike)
            size *= MERGE_AT

    def merge(self) -> None:
        """Make one part of all of this writer's; a reader sees every row at every moment."""
        self._parts_here = None
        parts = list(self._own())
        if len(parts) > 1:
            self._merge(parts)

    def _merge(self, parts: list[Path]) -> None:
        self._write(_read(parts))
        self._files.drop(parts)
        for part in parts:
            part.unlink()
            self._own().remove(part)
            self._held.pop(part, None)

    def _count(self, part: Path) -> int:
        """How many rows a part holds."""
        if part not in self._held:
            try:
                self._held[part] = pq.read_metadata(part).num_rows
            except (OSError, ValueError, pa.ArrowException) as error:
                raise RunError(f"{part}: cannot be read: {error}") from error
        return self._held[part]

    def rows(self) -> list[Row]:
        """All rows in the order of the run's clock; a row present twice, by a merge cut short, counts once."""
        return in_order(self._read_all())

    def table(self) -> pa.Table:
        """All rows, in the same order."""
        return table_of(self.rows())

    def _read_all(self) -> list[Row]:
        """Every row; where the writer merged parts away since they were listed, they are listed anew."""
        self._files.refresh()
        while True:
            try:
                return _read(self._parts())
            except FileNotFoundError:
                continue

    def news(self) -> list[Row]:
        """Rows of other writers' parts that came since the last call, in order; after a merge some come again."""
        self._files.refresh()
        while True:
            own = self._own()
            new = [part for part in self._parts() if part not in self._told and part not in own]
            try:
                rows = _read(new)
            except FileNotFoundError:
                continue
            self._told.update(new)
            return in_order(rows)

    def _own(self) -> list[Path]:
        """This writer's parts; a directory that grows with them is not listed for every row."""
        if self._parts_here is None:
            self._parts_here = [part for part in self._parts() if part.stem.rpartition("-")[0] == self._prefix]
        return self._parts_here

    def _parts(self) -> list[Path]:
        """All parts. Raises RunError where nobody can say: a folder that cannot be read is no empty one."""
        try:
            return sorted(path for path in self._folder.iterdir() if path.match("part-*.parquet"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"{self._folder}: cannot be read: {error.strerror or error}; restore it") from error

    def _next(self) -> Path:
        """The part to be written; where another program has written it meanwhile, what there is is looked for anew."""
        while True:
            taken = max((int(part.stem.rpartition("-")[2]) for part in self._own()), default=-1)
            path = self._folder / f"{self._prefix}-{taken + 1:06d}.parquet"
            if not path.exists():
                return path
            self._parts_here = None

    def _write(self, rows: list[Row]) -> None:
        path = self._next()
        several = len(rows) > 1  # what one row would gain nothing from
        try:
            with whole(path) as partial:
                pq.write_table(
                    table_of(rows), partial, write_page_checksum=True, use_dictionary=several, write_statistics=several
                )
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror or error}; results so far are safe") from error
        self._own().append(path)
        self._held[path] = len(rows)
        self._files.send(path)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of the run's clock; a row that is there twice counts once."""
    unique = {(row.trial, row.repeat, row.samples_seen, row.state, row.run_seconds): row for row in rows}
    return sorted(unique.values(), key=lambda row: (row.run_seconds, row.trial, row.samples_seen))


def table_of(rows: list[Row]) -> pa.Table:
    """Rows as an Arrow table."""
    columns: dict[str, list[Any]] = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
    for name in ("metrics", "evidence"):
        columns[name] = [list(value.items()) for value in columns[name]]
    return pa.table(columns, schema=SCHEMA)


def _read(parts: list[Path]) -> list[Row]:
    """The rows of parts. Raises RunError where one is damaged, FileNotFoundError where one is gone."""
    rows = []
    for part in parts:
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as opened:
                table = opened.read()
            if table.schema != SCHEMA:
                raise RunError(
                    f"{part}: has other columns than this gantune writes; read it with the one that wrote it"
                )
        except FileNotFoundError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RunError(
                f"{part}: cannot be read: {str(error).rstrip('.')}; restore it, or move it away: its reports are lost "
                "then, and `gantune resume` goes on with what the others tell"
            ) from error
        for values in table.to_pylist():
            rows.append(Row(**{**values, "metrics": dict(values["metrics"]), "evidence": dict(values["evidence"])}))
    return rows
