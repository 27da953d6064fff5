"""Decide from measurements whether a run is dead, of what, and on which evidence.

Hard failures (values that are not finite, one constant picture) end a run at once. Everything else needs low
diversity and no improvement in several reports in a row, after a warm-up: many runs that look collapsed early
recover.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gantune.config import CollapseConfig

State = Literal["healthy", "diverged", "mode_collapse", "generator_stalled", "discriminator_won"]

CONSTANT = 0.001  # diversity of pixels over the real data's own, below which the output is one picture; an untrained
# generator without normalisation shows 0.006, and may yet learn
D_CERTAIN = 0.99  # accuracy of a discriminator that is never wrong
GRADIENT_GONE = 1e-3  # norm of the generator's gradient that no longer moves it


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run is judged to be, in words, with the measurements behind it."""

    state: State = "healthy"
    cause: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def dead(self) -> bool:
        """Whether the run is to be stopped."""
        return self.state != "healthy"


class CollapseMonitor:
    """Judges one run, report by report. `samples` is the run's budget."""

    def __init__(self, config: CollapseConfig, samples: int) -> None:
        self._config = config
        self._samples = samples
        self._first: float | None = None
        self._best: float | None = None
        self._strikes = 0

    def observe(
        self, samples_seen: int, score: float, metrics: Mapping[str, float], signals: Mapping[str, float], finite: bool
    ) -> Verdict:
        """The verdict after one report; lower scores are better."""
        share = samples_seen / self._samples
        evidence = {"share_of_budget": share, "score": score, **metrics, **signals}
        evidence = {name: value for name, value in evidence.items() if math.isfinite(value)}
        if not finite or not math.isfinite(score):
            what = "weights, losses or logits" if not finite else "generated pictures"
            return Verdict(state="diverged", cause=f"{what} are not finite at {share:.0%}", evidence=evidence)
        if not self._config.enabled:
            return Verdict()
        pixels = metrics["pixel_diversity"]
        if pixels < CONSTANT:
            cause = f"one constant picture at {share:.0%} (pixel diversity {pixels:.3f} of the real data's)"
            return Verdict(state="mode_collapse", cause=cause, evidence=evidence)

        improved = self._best is None or score < self._best * (1 - self._config.min_improvement)
        self._first = score if self._first is None else self._first
        self._best = score if self._best is None else min(self._best, score)
        low = min(metrics["diversity"], pixels) < self._config.min_diversity
        if share < self._config.warmup or improved or not low:
            self._strikes = 0
            return Verdict()
        self._strikes += 1
        if self._strikes < self._config.patience:
            return Verdict()
        evidence |= {"reports_in_a_row": float(self._strikes), "best_score": self._best, "first_score": self._first}
        return self._name(share, metrics, signals, evidence)

    def _name(
        self, share: float, metrics: Mapping[str, float], signals: Mapping[str, float], evidence: Mapping[str, float]
    ) -> Verdict:
        """The cause of a soft verdict. The discriminator's signals name it; they have not decided it."""
        assert self._best is not None
        assert self._first is not None
        stuck = f"no improvement in {self._strikes} reports, at {share:.0%}"
        diversity = f"diversity {min(metrics['diversity'], metrics['pixel_diversity']):.2f} of the real data's"
        if signals["d_accuracy"] > D_CERTAIN and signals["g_gradient"] < GRADIENT_GONE:
            cause = f"the discriminator is never wrong and the generator's gradient is gone; {diversity}, {stuck}"
            return Verdict(state="discriminator_won", cause=cause, evidence=evidence)
        if self._best > self._first * (1 - self._config.min_improvement):
            cause = f"the generator has not improved on its first report; {diversity}, {stuck}"
            return Verdict(state="generator_stalled", cause=cause, evidence=evidence)
        return Verdict(
            state="mode_collapse",
            cause=f"{diversity}, recall {metrics['recall']:.2f}, {stuck}",
            evidence=evidence,
        )

    def state(self) -> dict[str, float | None]:
        """What the next verdict depends on."""
        return {"first": self._first, "best": self._best, "strikes": self._strikes}

    def load_state(self, state: Mapping[str, float | None]) -> None:
        """Continue from `state`."""
        self._first, self._best = state["first"], state["best"]
        self._strikes = int(state["strikes"] or 0)
