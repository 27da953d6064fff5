"""A run that lies at a place: a folder of this machine holds a copy, in which everything works as in a local run.

The place is the truth. What is written here is sent there at once, in the order in which it was written, so whoever
reads there could always go on; whoever drives or reads begins by making the copy equal.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gantune.checkpoint_header import read_metadata
from gantune.errors import RunError, StorageError
from gantune.lease import FILE as LEASE
from gantune.lease import check_free, holder
from gantune.storage import Place, Stored, at_once, is_uri
from gantune.whole import whole

SECONDS_BETWEEN_LOOKS = 3.0
JOURNAL = "study.journal"
REFERENCE = "reference.safetensors"
DATA = "data.parquet"  # a table of the files that it was made from
LOG = "ray.log"
BOARD = "tensorboard"  # a folder; each session has files of its own there
READ = ("manifest.json", "space.yaml")  # besides the results
HEAVY = (".safetensors", ".png", ".damaged")  # fetched where they are wanted


class Here:
    """The files of a run that lies in a folder of this machine, or on a disk that it shares: there is nothing to do."""

    remote = False  # whether a question costs a request

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def driven(self) -> bool:
        """Whether a search is driving the run, here or on another machine that has the folder."""
        return any(True for _ in self.held())

    def held(self) -> Iterator[str]:
        """The names of the drivers of this folder; of one that drives alone it is the run's own."""
        locks = [self._folder / ".lock", *sorted(self._folder.glob("drivers/*/.lock"))]
        return (path.parent.name for path in locks if path.exists() and _held(path))

    def check_free(self) -> None:
        """Raise RunError where a driver has the run whom this folder's lock does not tell of."""

    def where(self, path: Path) -> str:
        """Where a file lies, for people."""
        return str(path)

    def holds(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def study_changed(self) -> None:
        """The study has changed: nothing else is sent before its journal, for it may presume it."""

    def send(self, path: Path, content: bytes | None = None) -> None:
        """Let a file lie where the run does: it has been written, or is to have this content. Raises StorageError."""

    def send_once(self, path: Path) -> None:
        """The same for a file that never changes."""

    def drop(self, paths: Iterable[Path]) -> None:
        """Delete files where the run lies; those that are not there are passed over."""

    def delete(self, path: Path) -> int:
        """Delete one, and tell its size. Raises FileNotFoundError, or any OSError of a disk."""
        size = path.stat().st_size
        path.unlink()
        return size

    def clear(self, files: Iterable[str], folders: Iterable[str]) -> None:
        """Delete files and folders of the run by name; those that are not there are passed over."""
        for name in files:
            (self._folder / name).unlink(missing_ok=True)
        for name in folders:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def fetch(self, path: Path) -> Path:
        """Have a file here as it is there; where it is not there, it is not here either."""
        return path

    def refresh(self) -> None:
        """Have what readers read as it is there, unless it was looked for a moment ago."""

    def bring_pictures(self, folder: Path) -> None:
        """Have a trial's pictures as they are there."""

    def look(self, folder: Path) -> None:
        """Have a folder as it is there, unless it was looked at a moment ago."""

    def metadata(self, path: Path) -> dict[str, str] | None:
        """A checkpoint's metadata; None where it is gone or not whole."""
        try:
            with path.open("rb") as stream:
                return read_metadata(stream, path.stat().st_size)
        except OSError:
            return None

    def checkpoints(self) -> dict[Path, int]:
        """The bytes of every checkpoint; others may delete meanwhile."""
        found = {}
        for path in self._folder.glob("trials/*/*.safetensors"):
            with contextlib.suppress(OSError):
                found[path] = path.stat().st_size
        return found


class Mirror(Here):
    """Those of a run that lies at a place. `guard` may raise before anything is sent."""

    remote = True

    def __init__(self, folder: Path, place: Place) -> None:
        super().__init__(folder)
        self.place = place
        self.guard: Callable[[], None] = lambda: None
        self._journal_due = False
        self._elsewhere = False  # whether it was driven when the lease was last looked at
        self._looked: dict[str, float] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """As a reader's: whoever drives is one process, and Tune pickles schedulers that know their books."""
        return Mirror, (self._folder, self.place)

    def name_of(self, path: Path) -> str:
        """What a file of the copy is called at the place."""
        return path.relative_to(self._folder).as_posix()

    def driven(self) -> bool:
        """At the place."""
        if self._due("lease"):
            self._elsewhere = holder(self.place) is not None
        return super().driven() or self._elsewhere

    def check_free(self) -> None:
        """At the place."""
        check_free(self.place)

    def where(self, path: Path) -> str:
        """At the place."""
        return str(self.place / self.name_of(path))

    def holds(self, path: Path) -> bool:
        """At the place."""
        return self.place.stored(self.name_of(path)) is not None

    def metadata(self, path: Path) -> dict[str, str] | None:
        """At the place; its header alone is fetched."""
        return self.place.look_into(self.name_of(path), read_metadata)

    def checkpoints(self) -> dict[Path, int]:
        """At the place."""
        found = self.place.files("trials").items()
        return {self._folder / name: stored.size for name, stored in found if name.endswith(".safetensors")}

    def study_changed(self) -> None:
        """At the place."""
        self._journal_due = True

    def send(self, path: Path, content: bytes | None = None) -> None:
        """At the place, after what it presumes."""
        self.send_journal()
        self.place.put(self.name_of(path), path.read_bytes() if content is None else content, self.guard)

    def send_journal(self) -> None:
        """Let the study lie there as it is here, if it has changed."""
        if self._journal_due:
            self.place.put(JOURNAL, (self._folder / JOURNAL).read_bytes(), self.guard)
            self._journal_due = False

    def drop(self, paths: Iterable[Path]) -> None:
        """At the place."""
        self.place.remove((self.name_of(path) for path in paths), self.guard)

    def delete(self, path: Path) -> int:
        """At the place, and here."""
        there = self.place.stored(self.name_of(path))
        self.drop([path] if there else [])
        path.unlink(missing_ok=True)
        return there.size if there else 0

    def clear(self, files: Iterable[str], folders: Iterable[str]) -> None:
        """At the place, and here."""
        files, folders = list(files), list(folders)
        there = self.place.files()
        self.place.remove((name for name in there if name in files or name.partition("/")[0] in folders), self.guard)
        super().clear(files, folders)

    def fetch(self, path: Path) -> Path:
        """At the place."""
        try:
            land(path, self.place.get(self.name_of(path)), None)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
        return path

    def fetch_once(self, path: Path) -> Path:
        """The same for a file that never changes, once for all processes of a machine."""
        there = self.place.stored(self.name_of(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if there is not None and not _same(path, there):
                land(path, self.place.get(self.name_of(path)), there)
        return path

    def send_once(self, path: Path) -> None:
        """At the place; and the copy knows it for the same."""
        self.send(path)
        if (there := self.place.stored(self.name_of(path))) is not None:
            os.utime(path, ns=(there.written, there.written))

    def refresh(self) -> None:
        """At the place."""
        if self._due("results"):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"{self._folder}: cannot be made: {error.strerror}; set GANTUNE_CACHE") from error
            with FileLock(self._folder / ".pull.lock"):
                if not super().driven():  # by a driver of this machine the copy is as new as the place
                    at_once(lambda name: self.fetch(self._folder / name), READ)
                    self._pull("results", lambda name: True)

    def take(self) -> None:
        """Have all but checkpoints as it is there, for a driver; what was not sent from here is let go."""
        with FileLock(self._folder / ".pull.lock"):
            unread = (*HEAVY, LOG, LEASE)
            self._pull(
                "", lambda name: name == REFERENCE or not (name.endswith(unread) or name.startswith(f"{BOARD}/"))
            )

    def bring_pictures(self, folder: Path) -> None:
        """At the place."""
        self._pull(self.name_of(folder), lambda name: name.endswith(".png"))

    def look(self, folder: Path) -> None:
        """At the place."""
        if self._due(folder.name):
            self._pull(folder.name, lambda name: True)

    def _due(self, what: str) -> bool:
        due = time.monotonic() - self._looked.get(what, -SECONDS_BETWEEN_LOOKS) >= SECONDS_BETWEEN_LOOKS
        if due:
            self._looked[what] = time.monotonic()
        return due

    def _pull(self, below: str, wanted: Callable[[str], bool]) -> None:
        """Make files equal; where one vanished since they were listed, they are listed anew."""
        there: dict[str, Stored] = {}

        def download(name: str) -> None:
            land(self._folder / name, self.place.get(name), there[name])

        while True:
            there = {name: stored for name, stored in self.place.files(below).items() if wanted(name)}
            with contextlib.suppress(FileNotFoundError):
                at_once(download, [name for name, stored in there.items() if not _same(self._folder / name, stored)])
                break
        for path in (self._folder / below).rglob("*"):
            own = path.name.startswith(".") or path.is_dir() or (self._folder / "ray") in path.parents
            if not own and wanted(self.name_of(path)) and self.name_of(path) not in there:
                path.unlink(missing_ok=True)


def _held(lock: Path) -> bool:
    """Whether somebody holds a lock."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def land(path: Path, content: bytes, there: Stored | None) -> None:
    """Write a file of this machine whole, with the time at which it was written there. Raises StorageError."""
    try:
        with whole(path) as partial:
            partial.write_bytes(content)
            if there is not None:
                os.utime(partial, ns=(there.written, there.written))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def _same(path: Path, there: Stored) -> bool:
    """Whether a file that never changes is the one there. Others are always taken for different."""
    if path.suffix not in (".parquet", ".png", ".safetensors"):
        return False
    try:
        here = path.stat()
    except OSError:
        return False
    return (here.st_size, here.st_mtime_ns) == (there.size, there.written)


def find_run(where: str | None, runs: Path | Place) -> Place:
    """An existing run by URI, by name below a place, or the one last used there. Raises RunError for none."""
    if where is not None:
        place = Place(where) if is_uri(where) or isinstance(runs, Path) else runs / where
        if place.stored(READ[0]) is not None:
            return place
        runs = place.parent
    assert isinstance(runs, Place)
    manifests = runs.stored_each([f"{name}/{READ[0]}" for name in runs.folders()])
    known = {name.partition("/")[0]: stored.written for name, stored in manifests.items()}
    if where is None and known:
        return runs / max(known, key=lambda name: known[name])
    if where is None:
        raise RunError(f"there are no runs in {runs}; start one with: gantune search SPACE.yaml --runs {runs}")
    listed = f"; runs in {runs}: {', '.join(sorted(known))}" if known else f"; there are no runs in {runs}"
    raise RunError(f"`{where}` is not a run{listed}")
