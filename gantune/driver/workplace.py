"""Where a worker trains a trial: in the run's own folder, or, where that lies at a place, in one of its machine.

Such a worker begins with the trial's files from there, and sends back what a report has changed before the driver hears
of the report: so no row tells of a checkpoint that does not exist.
"""

import contextlib
import functools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from gantune.errors import StorageError
from gantune.mirror import REFERENCE, Mirror, land
from gantune.progress import Progress
from gantune.reports import BEST, LATEST
from gantune.storage import PATIENCE_SECONDS, Patience, Place, at_once

DRIVERS = ("config.yaml", "attempts.json")  # files that the driver writes


class Workplace:
    """The folder in which a trial is trained, and the file of its run's reference."""

    def __init__(self, folder: Path, reference: Path) -> None:
        self.folder = folder
        self.reference = reference

    def sent(self, reports: Iterable[Progress]) -> Iterator[Progress]:
        """The same reports, each when its checkpoints lie where the run does. Raises StorageError."""
        yield from reports


class _Away(Workplace):
    """Those of a trial whose run lies at a place."""

    def __init__(self, place: Place, trial: str) -> None:
        self._place = place / "trials" / trial
        folder = place.copy.parent / f"{place.name}.workers" / trial
        super().__init__(folder, Mirror(place.copy, place).fetch_once(place.copy / REFERENCE))
        shutil.rmtree(folder, ignore_errors=True)
        there = self._place.files()
        at_once(lambda name: land(folder / name, self._place.get(name), None), there)
        if not (folder / "config.yaml").exists():
            raise StorageError(f"{self._place}: holds no config.yaml; restore it, and the same command continues")
        self._known = self._files()

    def _files(self) -> dict[str, tuple[int, int]]:
        """What is here, but for what is being written, and how to know that it has changed."""
        found = {}
        for path in self.folder.iterdir():
            if not path.name.startswith(".") and path.name not in DRIVERS:
                stat = path.stat()
                found[path.name] = stat.st_size, stat.st_mtime_ns
        return found

    def sent(self, reports: Iterable[Progress]) -> Iterator[Progress]:
        for progress in reports:
            self._send()
            yield progress

    def _send(self) -> None:
        """Make the place like the folder. `latest` comes last: it presumes `best`, and may be a report behind it."""
        files = self._files()
        self._place.remove(self._known.keys() - files.keys())
        for name in sorted(files, key=lambda name: (name == LATEST, name == BEST, name)):
            if files[name] != self._known.get(name):
                self._place.put(name, (self.folder / name).read_bytes())
        self._known = files


@contextlib.contextmanager
def workplace(place: str, folder: str, reference: str) -> Iterator[Workplace]:
    """Where to train a trial. place: the URI of its run; nothing where the run lies in a folder that workers share.

    Raises StorageError.
    """
    if not place:
        yield Workplace(Path(folder), Path(reference))
        return
    away = _Away(_at(place), Path(folder).name)
    try:
        yield away
    finally:
        shutil.rmtree(away.folder, ignore_errors=True)


def reference_of(place: str, reference: str) -> Path:
    """The file of a run's reference on this machine. Raises StorageError."""
    return Path(reference) if not place else Mirror(_at(place).copy, _at(place)).fetch_once(_at(place).copy / REFERENCE)


@functools.lru_cache(maxsize=8)
def _at(place: str) -> Place:
    """A place that this process keeps a connection to, and waits for."""
    return Place(place, patience=Patience(seconds=PATIENCE_SECONDS))
