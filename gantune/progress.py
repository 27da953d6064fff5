"""One report of a trial: measured by its worker, kept in its checkpoints, written as a row by the driver."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gantune.collapse import Verdict

State = Literal["running", "finished", "collapsed"]
STATES: tuple[State, ...] = ("running", "finished", "collapsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a trial has reached.

    `score` is this report's and `best_score` the best so far that met all constraints; both are None where there is
    none. `seconds` is training time, over all sessions; `place` is set by who knows the machine.
    """

    samples_seen: int
    score: float | None
    best_score: float | None
    metrics: Mapping[str, float]
    verdict: Verdict = field(default_factory=Verdict)
    state: State = "running"
    seconds: float = 0.0
    place: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` reads them back."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Progress":
        """The progress that `as_dict` described."""
        return Progress(**{**values, "verdict": Verdict(**values["verdict"])})
