"""Searches simulated over recorded learning curves: a table that answers any configuration, and the workers.

The table answers a configuration with the curve of the nearest recorded one. Distances are Gower's (1971, "A General
Coefficient of Similarity"), summed over the open parameters of the space as `TrialConfig.parameters()` names them:
numbers by their gap as a share of their domain, on a log scale where the domain is one; a choice among numbers by the
gap between places in their order; other choices and branches 1 where they differ. A parameter that only one of the two
has adds nothing, for the branch that it hangs on differs and has been counted.
"""

import heapq
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from learning_curves import Curve, Report

from gantune.config import Scalar, TrialConfig
from gantune.domains import Branch, Choice, Domain, Uniform
from gantune.driver.study import Proposal
from gantune.space import SearchSpace

ROUNDING = 1e-9  # of a full run, in sums of shares

Decision = Literal["continue", "stop"]


class Contestant:
    """What proposes and stops trials, and learns only from what it is told."""

    def propose(self) -> Proposal | None:
        """A trial for a free worker, or one stopped before that goes on from there; None is nothing for now."""
        raise NotImplementedError

    def report(self, number: int, report: Report, lowest: float) -> Decision:
        """After every report but a trial's last; `lowest` is its best score so far, NaN where this one is none."""
        return "continue"

    def ended(self, number: int, report: Report, lowest: float) -> None:
        """The last report of a trial that has used up its budget."""

    def owns(self, number: int) -> bool:
        """Whether a trial may be the winner."""
        return True


class Answers(Protocol):
    """What a simulation asks for the curve of a trial."""

    def reports(self, proposal: Proposal) -> Sequence[Report]:
        """What a trial would report."""


class Table:
    """The recorded curves of one family, which answer every configuration of its space."""

    def __init__(self, space: SearchSpace, curves: Sequence[Curve]) -> None:
        self._domains = space.searched()
        self._samples = space.budget.samples_per_trial
        self.steps = max(len(curve.reports) for curve in curves)
        self.best = min(curve.best for curve in curves)
        grouped: dict[int, list[Curve]] = {}
        for curve in curves:
            grouped.setdefault(curve.config, []).append(curve)
        self._curves = list(grouped.values())
        self._places = np.array([self._place(json.loads(pair[0].parameters)) for pair in self._curves])
        self._smooth = np.array([_scaled(domain) for domain in self._domains.values()])
        self._whole = {curve: self._lengthened(curve) for curve in curves}

    def nearest(self, config: TrialConfig) -> Sequence[Curve]:
        """The recorded runs of the nearest configuration, one for each seed; the first of equally near ones."""
        gaps = np.abs(self._places - self._place(config.parameters()))
        gaps = np.where(self._smooth, gaps, gaps > 0)
        return self._curves[int(np.nansum(np.where(np.isnan(gaps), 0, gaps), axis=1).argmin())]

    def reports(self, proposal: Proposal) -> Sequence[Report]:
        """What a trial would report; its number chooses between the recorded seeds."""
        pair = self.nearest(proposal.config)
        return self._whole[pair[proposal.number % len(pair)]]

    def _place(self, parameters: Mapping[str, Scalar]) -> list[float]:
        return [
            _position(domain, parameters[path]) if path in parameters else math.nan
            for path, domain in self._domains.items()
        ]

    def _lengthened(self, curve: Curve) -> tuple[Report, ...]:
        """A run whose weights are no longer finite trains on, and reports so, until somebody stops it."""
        shares = [(index + 1) / self.steps for index in range(len(curve.reports), self.steps)]
        rest = (Report(round(share * self._samples), share, False, math.nan, {}) for share in shares)
        return (*curve.reports, *rest)


def _scaled(domain: Domain) -> bool:
    """Whether gaps between positions mean more than that two values differ."""
    return isinstance(domain, Uniform) or (isinstance(domain, Choice) and _are_numbers(domain.values))


def _are_numbers(values: Sequence[Scalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _position(domain: Domain, value: Scalar) -> float:
    """Where a value lies in its domain, from 0 to 1; of what has no order, its number."""
    if isinstance(domain, Uniform):
        assert isinstance(value, int | float)
        if domain.log:
            return math.log(value / domain.low) / math.log(domain.high / domain.low)
        return (value - domain.low) / (domain.high - domain.low)
    if isinstance(domain, Branch):
        return list(domain.options).index(str(value))
    assert isinstance(domain, Choice)
    if _scaled(domain):
        return sorted(domain.values).index(value) / (len(domain.values) - 1)  # type: ignore[type-var]
    return domain.values.index(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What one search found. Compute is in full runs.

    found: the compute after which the best score changed, with the score; a winner that is disowned makes it rise.
    """

    found: tuple[tuple[float, float], ...]
    spent: float
    trials: int

    def best_after(self, compute: float) -> float:
        """The best score that the search held after this much compute; infinite where it held none."""
        return next((best for when, best in reversed(self.found) if when <= compute + ROUNDING), math.inf)

    def reaches(self, score: float) -> float:
        """The compute after which the search first held a score as low as this; infinite where it never did."""
        return next((when for when, best in self.found if best <= score), math.inf)


@dataclass(slots=True)
class _Trial:
    """A trial on its way: its reports, how many of them were made, and the lowest finite score among those."""

    reports: Sequence[Report]
    made: int = 0
    lowest: float = math.inf

    def share(self) -> float:
        """How much of a full run lies between its last report and its next."""
        return self.reports[self.made].share - (self.reports[self.made - 1].share if self.made else 0.0)


def simulate(
    contestant: Contestant, answers: Answers, workers: int, budget: float, enough: float = -math.inf
) -> Search:
    """An asynchronous search that spends `budget` full runs, or has a trial end with a score of `enough`.

    Every worker trains one trial, and a full run takes one unit of time, whatever its configuration. A worker that the
    contestant leaves idle costs nothing. What would be reported after the budget is spent is not.
    """
    trials: dict[int, _Trial] = {}
    due: list[tuple[float, int, int]] = []  # when, in which order where at once, and which trial reports
    order = itertools.count()
    found: list[tuple[float, float]] = []
    now = spent = 0.0
    while True:
        while len(due) < workers and (proposal := contestant.propose()) is not None:
            trial = trials.setdefault(proposal.number, _Trial(()))
            trial.reports = trial.reports or answers.reports(proposal)
            heapq.heappush(due, (now + trial.share(), next(order), proposal.number))
        if not due or spent + (due[0][0] - now) * len(due) > budget + ROUNDING:
            break
        when, _, number = heapq.heappop(due)
        spent, now = spent + (when - now) * (len(due) + 1), when
        trial = trials[number]
        report = trial.reports[trial.made]
        trial.made += 1
        trial.lowest = min(trial.lowest, report.score) if report.finite else trial.lowest
        told = trial.lowest if report.finite else math.nan
        last = trial.made == len(trial.reports)
        if last:
            contestant.ended(number, report, told)
        goes_on = not last and contestant.report(number, report, told) == "continue"
        if goes_on:
            heapq.heappush(due, (now + trial.share(), next(order), number))
        held = _held(contestant, number, trials, found[-1][1] if found else math.inf)
        if not found or held != found[-1][1]:
            found.append((spent, held))
        if not goes_on and contestant.owns(number) and trial.lowest <= enough:
            return Search(found=tuple(found), spent=spent, trials=len(trials))
    return Search(found=tuple(found), spent=budget if due else spent, trials=len(trials))


def _held(contestant: Contestant, number: int, trials: Mapping[int, _Trial], best: float) -> float:
    """The best score after a report of trial `number`; looked for anew where that trial held it and is disowned."""
    if contestant.owns(number):
        return min(best, trials[number].lowest)
    if trials[number].lowest > best:
        return best
    return min((trial.lowest for other, trial in trials.items() if contestant.owns(other)), default=math.inf)
