"""What ended the worker of a trial."""

import contextlib
import os
import pickle
import re

from ray.exceptions import OutOfMemoryError
from ray.tune.experiment import Trial

OUT_OF_MEMORY = re.compile(r"Ray killed \S+ worker|node running low on memory")  # Ray's words


def error_of(trial: Trial) -> Exception | None:
    """What ended a trial's worker: Tune itself knows only a text, and looks for it where it will be put later.

    What is not an error of a task or an actor it keeps as text alone.
    """
    for name, read in ((trial.pickled_error_file, pickle.loads), (trial.error_file, _error_in)):
        if name is not None and os.path.exists(name):
            with contextlib.suppress(Exception), open(name, "rb") as file:  # or its text: a plugin's own may lack here
                error: Exception = read(file.read())
                return error
    return None


def _error_in(text: bytes) -> Exception:
    words = text.decode(errors="replace").strip()
    return OutOfMemoryError(words) if OUT_OF_MEMORY.search(words) else RuntimeError(words)
