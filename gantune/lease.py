"""Who drives a run that lies at a place: a small file there, rewritten as long as its driver lives.

Locks of this machine do not reach another one. A lease that is not rewritten for a while is its driver's no more.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from dataclasses import asdict, dataclass

from gantune.errors import RunError, StorageError
from gantune.storage import Place

FILE = "driver.json"
BEAT_SECONDS = 20.0
ATTEMPT_SECONDS = 90.0  # what pyarrow's ten attempts at one request take: it may still arrive so much later
STALE_SECONDS = 150.0
SECONDS_TO_END = 5.0  # for a beat that is under way; what is left behind grows stale


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A driver: its machine, its process, and when it began and was last heard of (seconds since 1970)."""

    id: str
    host: str
    processes: str  # which table of processes `pid` is from: a container has its own
    pid: int
    began: float
    beat: float

    @property
    def alive(self) -> bool:
        """Whether it was heard of lately; of this machine's, whether there is such a process."""
        if time.time() - self.beat >= STALE_SECONDS:
            return False
        return (self.host, self.processes) != (platform.node(), _processes()) or _runs(self.pid)

    @property
    def own(self) -> bool:
        """Whether it is this process."""
        return (self.host, self.processes, self.pid) == (platform.node(), _processes(), os.getpid())


def holder(place: Place) -> Holder | None:
    """Who drives the run that lies there; None where nobody does, or nobody any more."""
    try:
        found = Holder(**json.loads(place.get(FILE)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if found.alive else None


def check_free(place: Place) -> None:
    """Raise RunError where another driver has the run, with who it is."""
    found = holder(place)
    if found is not None and not found.own:
        raise RunError(_taken(place, found))


def _taken(place: Place, by: Holder) -> str:
    began, until = (time.strftime("%H:%M:%S", time.localtime(at)) for at in (by.began, by.beat + STALE_SECONDS))
    return (
        f"{place}: a search on {by.host} (process {by.pid}, since {began}) is driving this run; wait for it, end it "
        f"with `gantune stop`, or use --name; if it died, the run is free at {until}"
    )


class Lease:
    """The run is this process's within the context. Raises RunError where it is another's."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._calm = place.impatient()  # its beats wait for nobody
        self._id = uuid.uuid4().hex
        self._began = time.time()
        self._heard = 0.0
        self._lost: Holder | None = None
        self._away = False  # whether the last beat found no storage
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True)

    def __enter__(self) -> "Lease":
        check_free(self._place)
        self._write()
        self.confirm(at_once=True)  # of two that began together, the later one has it
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(SECONDS_TO_END)
        if self._lost is None and not self._away and not self._thread.is_alive():
            with contextlib.suppress(StorageError):
                self._calm.remove([FILE])

    def confirm(self, *, at_once: bool = False) -> None:
        """Raise RunError where the run has become another driver's.

        A driver that has not been heard of for long, as while the storage was away, makes sure; `at_once` does so now.
        """
        if at_once or time.monotonic() - self._heard > STALE_SECONDS - BEAT_SECONDS - ATTEMPT_SECONDS:
            self._beat()
        if self._lost is not None:
            raise RunError(f"{_taken(self._place, self._lost)}; nothing is lost")

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self._beat()
                self._away = False
            except StorageError:
                self._away = True

    def _beat(self) -> None:
        with self._lock:
            found = holder(self._calm)
            if found is not None and found.id != self._id:
                self._lost = found
            if self._lost is None:
                self._write()

    def _write(self) -> None:
        now = Holder(
            id=self._id,
            host=platform.node(),
            processes=_processes(),
            pid=os.getpid(),
            began=self._began,
            beat=time.time(),
        )
        self._calm.put(FILE, json.dumps(asdict(now)).encode())
        self._heard = time.monotonic()


def _processes() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
