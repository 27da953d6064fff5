"""A connection to Ray: to a cluster by its address, or to one that is started on this machine for a while."""

import contextlib
import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import ray
from ray._private import utils, worker

from gantune.errors import RunError

OBJECT_STORE_BYTES = 200_000_000  # of a Ray that we start ourselves; nothing large passes through it
SECONDS_TO_ANSWER = 10.0  # for a cluster to take a connection
SECONDS_TO_DIE = 1.0  # for a process that is killed
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
psutil = utils.psutil  # Ray brings one


@contextlib.contextmanager
def connected(log: Path, address: str | None) -> Iterator[None]:
    """A connection to Ray, with its chatter in a log file. A Ray that we started ends with it.

    One that there is already is used, and left as it is. Raises RunError where Ray cannot be reached.
    """
    if ray.is_initialized():
        with _logged(log):
            yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS")
    with _logged(log):
        _start(address)
        try:
            yield
        finally:
            ray.shutdown()


class _OfThisThread(io.TextIOBase):
    """Takes what the thread that makes it writes, and passes on what the others do."""

    def __init__(self, own: TextIO, others: TextIO | None) -> None:
        self._own, self._others = own, others or own  # a program may have no stdout
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Text for one of the two."""
        return (self._own if threading.get_ident() == self._thread else self._others).write(text)

    def flush(self) -> None:
        """Both."""
        self._own.flush()
        self._others.flush()


def start_again() -> None:
    """Start the Ray of this machine anew, in place of one that is gone."""
    ray.shutdown()
    _start(None)


def _start(address: str | None) -> None:
    if address:
        _knock(address)
    own = {} if address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    known = _children()
    try:
        with _signals_kept():
            ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **own)
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            ray.shutdown()
        kill(_children() - known)  # what a Ray that is half there does not know to be its own
        raise
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"at {address}" if address else "on this machine"
        hint = "; a cluster with a token needs it in ~/.ray/auth_token, and RAY_AUTH_MODE=token" if address else ""
        raise RunError(f"Ray could not be reached {where}: {error}{hint}") from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep Ray from putting a handler of its own on SIGTERM, by which no search could be stopped politely.

    Its C++ part puts one before Python's all the same, which aborts the process after three seconds.
    """
    own = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = own
        if threading.current_thread() is threading.main_thread() and callable(ours := signal.getsignal(signal.SIGTERM)):
            signal.signal(signal.SIGTERM, ours)


def end_processes() -> None:
    """End the Ray that we started at once, with its workers. One that was joined is left as it is."""
    if not joined():
        kill(_children())


def _children() -> set[Any]:
    """Return the processes that this one has started, and theirs."""
    return set(psutil.Process().children(recursive=True))


def kill(processes: set[Any], seconds: float = SECONDS_TO_DIE) -> None:
    """Kill processes, as psutil has them, and wait so long for their end."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=seconds)


def _knock(address: str) -> None:
    """Raise RunError where nobody answers at host:port; Ray would ask for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        return  # what else Ray takes: auto, a name, a client's address
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"Ray could not be reached at {address}: {error}; is that cluster up?") from error


def joined() -> bool:
    """Whether the Ray that we use belongs to a cluster, whose machines come and go."""
    node = worker._global_node
    return node is not None and not node.is_head()


def gone() -> bool:
    """Whether a Ray that we started has lost a process without which no worker is started or found."""
    node = worker._global_node  # Ray's public calls learn of it a quarter of a minute later
    return node is not None and any(kind in ("raylet", "gcs_server") for kind, _ in node.dead_processes())


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What Ray prints and logs goes to a file instead of the screen.

    The file hangs on the root logger: ray.init takes away whatever hangs on Ray's own. Where a
    program searches in a thread of its own, what its other threads print stays where it was.
    """
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ray")
    before, propagate = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [], True
    logging.root.addHandler(handler)
    assert handler.stream is not None  # it is opened at once
    try:
        alone = threading.current_thread() is threading.main_thread()
        with contextlib.redirect_stdout(
            handler.stream if alone else _OfThisThread(cast(TextIO, handler.stream), sys.stdout)
        ):
            yield
    finally:
        logging.root.removeHandler(handler)
        logger.handlers, logger.propagate = before, propagate
        handler.close()
