"""A connection to Ray: to a cluster by its address, or to one that is started on this machine for a while."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import ray

from gantune.errors import RunError

OBJECT_STORE_BYTES = 200_000_000  # of a Ray that we start ourselves; nothing large passes through it
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextlib.contextmanager
def connected(log: Path, address: str | None) -> Iterator[None]:
    """A connection to Ray, with its chatter in a log file. A Ray that we started ends with it.

    Raises RunError where it cannot be reached.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    with _logged(log):
        try:
            ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **own)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"at {address}" if address else "on this machine"
            hint = "; a cluster with a token needs it in ~/.ray/auth_token, and RAY_AUTH_MODE=token" if address else ""
            raise RunError(f"Ray could not be reached {where}: {error}{hint}") from error
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What Ray prints and logs goes to a file instead of the screen.

    The file hangs on the root logger: ray.init takes away whatever hangs on Ray's own.
    """
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ray")
    before, propagate = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [], True
    logging.root.addHandler(handler)
    try:
        with contextlib.redirect_stdout(handler.stream):
            yield
    finally:
        logging.root.removeHandler(handler)
        logger.handlers, logger.propagate = before, propagate
        handler.close()
