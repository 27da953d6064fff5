"""A driver and the place where its run lies."""

import contextlib
import shutil
from collections.abc import Callable, Iterator

from gantune.errors import GantuneError
from gantune.lease import Lease
from gantune.mirror import LOG, Mirror
from gantune.run import Run
from gantune.storage import PATIENCE_SECONDS, AwayError


@contextlib.contextmanager
def driving(run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """Drive a run that this process has locked; where it lies at a place, its copy begins and ends as it is there.

    Raises RunError where a driver of another machine has it, StorageError where the place does not answer.
    """
    files = run.files
    if not isinstance(files, Mirror):
        yield
        return
    patience = files.place.patience
    with Lease(files.place) as lease:
        patience.seconds, patience.say = PATIENCE_SECONDS, say
        files.guard = lease.confirm
        files.take()
        shutil.rmtree(workers := files.place.copy.parent / f"{run.name}.workers", ignore_errors=True)
        lost = False
        try:
            yield
            files.send_journal()
        except AwayError:
            lost = True
            raise
        finally:
            patience.seconds = 0.0  # whatever ended it is not to wait
            if not lost:
                with contextlib.suppress(GantuneError, OSError):
                    files.send_journal()
                    files.send(run.folder / LOG)
            shutil.rmtree(workers, ignore_errors=True)
            files.guard = lambda: None
