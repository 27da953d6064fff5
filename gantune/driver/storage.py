"""Where a study lies: in the journal of one driver, or in the database of several."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from optuna.study import StudyDirection

from gantune.driver.database import Database
from gantune.errors import RunError


class _Journal(JournalFileBackend):
    """A journal that comes to the disk when it is told to, not line by line, which would be twenty times a trial.

    Lines are with the system at once, so a driver that is killed loses none; `flush` is for the loss of a machine.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Hand lines to the system."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock), open(self._file_path, "ab") as stream:
            stream.write(lines.encode())

    def flush(self) -> None:
        """See all lines so far to the disk."""
        with open(self._file_path, "rb") as stream:
            os.fsync(stream.fileno())


def open_study(place: Path | Database, directions: Sequence[StudyDirection]) -> tuple[optuna.Study, Callable[[], None]]:
    """The study that lies there, made where there is none, and what sees it to the disk. Raises RunError."""
    if isinstance(place, Database):
        return _in_database(place, directions), lambda: None
    return _in_journal(place, directions)


def _in_journal(path: Path, directions: Sequence[StudyDirection]) -> tuple[optuna.Study, Callable[[], None]]:
    try:
        journal = path.resolve()  # the lock is a link to it, and a link with a relative target points elsewhere
        _mend(journal)
        backend = _Journal(str(journal))
        storage = JournalStorage(backend)
        names = optuna.get_all_study_names(storage)  # a run that was renamed keeps its study
        name = names[0] if names else path.parent.name
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, directions=directions)
        return study, backend.flush
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be opened as a study: {error}; restore it, or delete it: it is made again from the results"
        ) from error


def _in_database(database: Database, directions: Sequence[StudyDirection]) -> optuna.Study:
    """A study whose every question waits for a server that is away for a while."""
    make = database.patient(lambda: RDBStorage(database.url, engine_kwargs=database.engine_options))
    try:
        try:
            storage = get_storage(make())
        except RunError:
            storage = get_storage(make())  # another run may have made the tables at the same moment
    except RuntimeError as error:
        raise RunError(f"{database}: holds tables of another Optuna: {error}") from error
    for name in dir(BaseStorage):
        if not name.startswith("_"):
            setattr(storage, name, database.patient(getattr(storage, name)))
    return optuna.create_study(storage=storage, study_name=database.study, load_if_exists=True, directions=directions)


def _mend(journal: Path) -> None:
    """Take away what a driver leaves that is killed while it writes: its lock, and the line that it did not end."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("rb+") as stream:
            content = stream.read()
            stream.truncate(content.rfind(b"\n") + 1)
