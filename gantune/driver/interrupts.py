"""SIGINT and SIGTERM of a search, from its first moment to its last.

While a search is prepared, the first signal raises Interrupted in the main thread; while trials train, it sets `asked`,
which Ray Tune is stopped by. The second one ends the process at once.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal

from gantune.whole import remove_unfinished

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_BETWEEN = 0.1  # `timeout` sends one signal twice, to the process and to its group
SECONDS_TO_LEAVE = 3.5  # a step of the preparation that does not return to Python
SECONDS_TO_END = 0.5  # after the second signal
CLEANUP_SECONDS = 1.0
SECONDS_TO_RAISE_AGAIN = 0.05
STOPPED = 130  # exit code
TRAINING = b"\nstopping; what is running will continue from its last report\n"

Cause = Literal["", "signal", "stop", "hours"]
Mode = Literal["end", "raise", "note"]


class Interrupted(KeyboardInterrupt):
    """The end of a search that is still being prepared."""


class Interrupts:
    """The handler of both signals, as a context manager; in a thread other than the main one it leaves them alone.

    own_process: whether the process may be ended, as that of a command; a notebook's may not. `cause`: what asked for
    the end first. `before_exit`: called before the process is ended at once.
    """

    def __init__(self, *, own_process: bool = False) -> None:
        self.cause: Cause = ""
        self.before_exit: list[Callable[[], object]] = []
        self._own_process = own_process
        self._mode: Mode = "raise"
        self._heard = 0.0  # when the first signal came
        self._passed_on: Cause = ""  # by the thread that looks for requests
        self._left = threading.Event()
        self._before: dict[int, object] = {}
        self._hook = sys.unraisablehook
        self._again = False  # the first signal's exception was lost

    @property
    def asked(self) -> bool:
        """Whether the search is to end."""
        return bool(self.cause)

    @property
    def handled(self) -> bool:
        """Whether signals reach this object."""
        return bool(self._before)

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        leaving = self._own_process and self.cause in ("signal", "stop")  # then a second signal changes nothing
        if not leaving:
            self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if leaving else handler)  # type: ignore[arg-type]
        if self._before and not leaving:
            sys.unraisablehook = self._hook
        self._before = {}

    @contextlib.contextmanager
    def mode(self, mode: Mode) -> Iterator[None]:
        """Answer the first signal otherwise for a while. `end`: an import that an exception passed would break."""
        before, self._mode = self._mode, mode
        try:
            yield
        finally:
            self._mode = before

    def ask(self, cause: Cause) -> None:
        """Ask for the end from another thread, as a signal would."""
        if self.asked:
            return
        if self.handled:
            self._passed_on = cause
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes whatever waits there
        else:
            self.cause = cause

    def check(self) -> None:
        """Raise Interrupted where the end was asked for; called where a report comes, also in other threads."""
        if self.asked and self._mode == "raise":
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        passed_on, self._passed_on = self._passed_on, ""
        if self._again:
            self._again = False
            raise Interrupted
        if self.asked:
            if not passed_on and time.monotonic() - self._heard > SECONDS_BETWEEN:
                self._end_in(SECONDS_TO_END)
                raise KeyboardInterrupt
            return
        self.cause, self._heard = passed_on or "signal", time.monotonic()
        if self._mode == "note":
            os.write(2, TRAINING)
        elif self._mode == "end" and self._own_process:
            os.write(2, b"\nstopped while it was loading; the same command continues\n")
            self._end()
        else:
            self._end_in(SECONDS_TO_LEAVE)
            raise Interrupted

    def _unraisable(self, lost: "sys.UnraisableHookArgs") -> None:
        """Raise Interrupted again where Python ignored it, as in what is called after a fork or by a finalizer."""
        if not isinstance(lost.exc_value, Interrupted):
            self._hook(lost)
        elif self._mode == "raise":
            threading.Thread(target=self._raise_again, daemon=True).start()

    def _raise_again(self) -> None:
        time.sleep(SECONDS_TO_RAISE_AGAIN)  # or the hook itself would meet it
        if self.handled and not self._left.is_set():
            self._again = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _end_in(self, seconds: float) -> None:
        """End the process unless the main thread has left the search by then."""
        if self._own_process:
            threading.Thread(target=self._fuse, args=(seconds,), daemon=True).start()

    def _fuse(self, seconds: float) -> None:
        if not self._left.wait(seconds):
            self._end()

    def _end(self) -> None:
        """End the process, which takes its children along, after a cleanup that may not take long.

        A step that waits, as for a lock of the main thread, keeps no other from its turn.
        """
        steps = [threading.Thread(target=_try, args=(step,), daemon=True) for step in self.before_exit]
        for thread in steps:
            thread.start()
        until = time.monotonic() + CLEANUP_SECONDS
        for thread in steps:
            thread.join(max(0.0, until - time.monotonic()))
        _try(remove_unfinished)
        os._exit(3 if self.cause == "hours" else STOPPED)


def _try(step: Callable[[], object]) -> None:
    with contextlib.suppress(BaseException):
        step()
