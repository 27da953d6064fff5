"""Carries out what people ask of a search while it runs."""

import time
from typing import Any

from gantune.driver.books import Books
from gantune.driver.schedulers import Remembering
from gantune.driver.screen import Screen
from gantune.requests import Request, Requests
from gantune.results import ENDED, Row

SECONDS_BETWEEN = 0.3  # looks into the folder
PERSON = "a person"


class Control:
    """Requests met with the books. `stop`: whether somebody wants the search to stop.

    `scheduler` is what hears of promotions; it may be set once it is built.
    """

    def __init__(self, requests: Requests, books: Books, screen: Screen) -> None:
        self._requests = requests
        self._books = books
        self._screen = screen
        self._looked = -SECONDS_BETWEEN
        self._kills: dict[int, list[Request]] = {}
        self._promoted: dict[int, int] = {}
        self.scheduler: object = None
        self.stop = False

    def look(self) -> None:
        """Take up what has been asked since."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN:
            return
        self._looked = time.monotonic()
        known = {request.id for requests in self._kills.values() for request in requests}
        for request in self._requests.pending():
            if request.verb == "stop":
                if not self.stop:
                    self._screen.say("stopping, as somebody asked; what is running will continue from its last report")
                self.stop = True
                self._requests.reply(request, "accepted", "stopping")  # other drivers of the run are to hear it, too
            elif request.id not in known:
                self._take(request)
        self._keep()

    def _keep(self) -> None:
        """Let the scheduler hear of promotions, also of those that another driver has met."""
        promoted = self._requests.promoted()
        if promoted != self._promoted and isinstance(self.scheduler, Remembering):
            self.scheduler.keep(promoted)
            self._promoted = promoted

    def _take(self, request: Request) -> None:
        with self._books.together():
            if self._requests.asked(request):  # no other driver has met it meanwhile
                self._meet(request)

    def _meet(self, request: Request) -> None:
        trial = request.trial
        state = self._books.state_of(trial) if isinstance(trial, int) else ""
        if state == "elsewhere":
            return  # it is for another driver to answer
        if not isinstance(trial, int) or not state:
            self._requests.reply(request, "refused", f"there is no trial #{trial}")
        elif state in ENDED:
            self._requests.reply(request, "refused", f"#{trial} has ended already: {state}")
        elif request.verb == "promote":
            self._promote(request, trial)
        elif state == "running" and self._books.samples_seen(trial):
            self._kills.setdefault(trial, []).append(request)
            self._requests.reply(request, "accepted", f"#{trial} ends at its next report")
        else:
            when = "before its first report" if state == "running" else f"while it was {state}"
            row = self._books.withdraw(trial, f"stopped by {PERSON} {when}")
            self._screen.ended(row, self._books)
            self._requests.reply(request, "done", f"#{trial} has ended, {when}")

    def _promote(self, request: Request, trial: int) -> None:
        self._requests.promote(trial, self._books.samples_seen(trial))
        self._keep()
        self._screen.say(f"#{trial} gets its whole budget, as somebody asked")
        self._requests.reply(request, "done", f"#{trial} gets its whole budget, unless it collapses")

    def kills(self, result: dict[str, Any]) -> bool:
        """Whether a report is a trial's last because somebody wants its end.

        The scheduler hears of it nevertheless, as it will when the rows are replayed.
        """
        self.look()
        if result.get("number") not in self._kills or result.get("state") != "running":
            return False
        if isinstance(self.scheduler, Remembering) and result["score"] is not None:
            self.scheduler.decide(result["number"], result["samples_seen"], result["score"])
        return True

    def stopper(self, number: int) -> str:
        """Who it is, other than the scheduler, that stops a trial."""
        return PERSON if number in self._kills else ""

    def ended(self, row: Row) -> None:
        """A trial has ended, asked for or not; who waits for it is told."""
        for request in () if row.repeat else self._kills.pop(row.trial, ()):
            by_itself = "" if PERSON in row.cause else ", by itself"
            self._requests.reply(
                request, "done", f"#{row.trial} {row.state} at {row.samples_seen:,} samples{by_itself}"
            )
