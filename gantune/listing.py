"""The runs that lie in a folder or at a URI, each with its state; what cannot be read is told, and hides no other."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gantune.errors import GantuneError
from gantune.following import Driver, Follower
from gantune.run import Run
from gantune.situation import Lead
from gantune.storage import Place

TRACES = ("manifest.json", "space.yaml", "results")  # of a run, whole or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run. `began`: seconds since 1970; `hours` of its clock; `bytes` where it lies. `why` it is unreadable."""

    name: str
    run: str
    state: str
    why: str = ""
    drivers: tuple[Driver, ...] = ()
    done: int = 0
    asked: int = 0
    best: Lead | None = None
    score_name: str = ""
    began: float | None = None
    hours: float | None = None
    bytes: int = 0

    @property
    def shown_state(self) -> str:
        """In words."""
        if self.state in ("preparing", "searching"):
            return f"{self.state} {'here' if any(driver.here for driver in self.drivers) else 'elsewhere'}"
        return "never reported" if self.state == "silent" else self.state


def entries(runs: Path | Place) -> Iterator[Entry]:
    """Every run, by name. Raises StorageError where the place does not answer."""
    for name in _names(runs):
        yield _entry(Run.at(runs, name))


def _names(runs: Path | Place) -> list[str]:
    if isinstance(runs, Place):
        return runs.folders()
    return sorted({path.parent.name for trace in TRACES for path in runs.glob(f"*/{trace}")})


def _entry(run: Run) -> Entry:
    size = _bytes(run)
    try:
        view = Follower(run).look(trials_only=True)
        began = run.manifest()["sessions"][0].get("began") or (run.folder / "manifest.json").stat().st_mtime
    except GantuneError as error:
        return Entry(name=run.name, run=run.shown, state="unreadable", why=str(error), bytes=size)
    now = view.situation
    return Entry(
        name=run.name,
        run=run.shown,
        state=view.state,
        drivers=view.drivers,
        done=now.done,
        asked=now.asked,
        best=now.best,
        score_name=now.score_name,
        began=began,
        hours=now.seconds / 3600,
        bytes=size,
    )


def _bytes(run: Run) -> int:
    if run.place is not None:
        return sum(stored.size for stored in run.place.files().values())
    total = 0
    for path in run.folder.rglob("*"):
        with contextlib.suppress(OSError):  # a search deletes meanwhile
            total += path.lstat().st_size if not path.is_dir() else 0
    return total


def age(began: float) -> str:
    """How long ago, in one unit."""
    seconds = max(0.0, time.time() - began)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
