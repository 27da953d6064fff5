"""Decide from measurements whether a run is dead, of what, and on which evidence.

Hard failures (values that are not finite, one constant picture) end a run at once. Everything else has to be seen in
several reports in a row, after a warm-up: many runs that look collapsed early recover. What decides is what the
samples show: low diversity while neither it nor the score gets better, a score far above the run's own best, copies of
training examples, an output that no longer changes. The discriminator's signals name the cause; they never decide.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gantune.config import CollapseConfig

State = Literal[
    "healthy", "diverged", "mode_collapse", "generator_stalled", "discriminator_won", "oscillation", "memorised"
]

CONSTANT = 0.001  # diversity of pixels over the real data's own, below which the output is one picture; an untrained
# generator without normalisation shows 0.006, and may yet learn
D_CERTAIN = 0.99  # accuracy of a discriminator that is never wrong
GRADIENT_GONE = 1e-2  # norm of the generator's gradient that no longer moves it; healthy runs show 0.3 and more
SATURATED = -10.0  # mean logit of fakes below which a loss has no slope left in float32
NOTHING_REACHED = 0.01  # recall of an output that reaches none of the real data
HARDLY = 0.1  # share of the first score, an improvement by less than which is called standing still
UNCHANGED = 1e-9  # relative change of a score that an update of the weights would exceed
SURE = 2  # reports in a row after which copies and an output that no longer changes are beyond doubt
REMEMBERED = 6  # scores that an oscillation is looked for in
SWING = 0.2  # relative change between two turning points of an oscillation
TURNS = 2  # turning points among the remembered scores


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


@dataclass(slots=True, kw_only=True)
class _Memory:
    """What the next verdict depends on: scores, and for how many reports in a row each sign has been there."""

    first: float | None = None
    best: float | None = None
    passed: float | None = None  # the score that the last improvement came to
    widest: float = 0.0  # the diversity that the last widening came to
    scores: list[float] = field(default_factory=list)
    narrow: int = 0
    far: int = 0
    copied: int = 0
    unchanged: int = 0


class CollapseMonitor:
    """Judges one run, report by report. `samples` is the run's budget."""

    def __init__(self, config: CollapseConfig, samples: int) -> None:
        self._config = config
        self._samples = samples
        self._memory = _Memory()

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
        self._remember(share, score, metrics)
        state, cause = self._judge(score, metrics, signals)
        if state == "healthy":
            return Verdict()
        memory = self._memory
        evidence |= {"best_score": memory.best or 0.0, "first_score": memory.first or 0.0}
        evidence["reports_in_a_row"] = max(memory.narrow, memory.far, memory.copied, memory.unchanged)
        return Verdict(state=state, cause=f"{cause}, at {share:.0%}", evidence=evidence)

    def _remember(self, share: float, score: float, metrics: Mapping[str, float]) -> None:
        memory, config = self._memory, self._config
        last = memory.scores[-1] if memory.scores else math.nan
        diversity = min(metrics["diversity"], metrics["pixel_diversity"])
        improved = memory.passed is None or score < memory.passed - config.min_improvement * abs(memory.passed)
        widened = diversity > (1 + config.min_improvement) * memory.widest  # narrow as yet, and on its way
        memory.passed = score if improved else memory.passed
        memory.widest = diversity if widened else memory.widest
        memory.first = score if memory.first is None else memory.first
        memory.best = score if memory.best is None else min(memory.best, score)
        memory.scores = [*memory.scores, score][-REMEMBERED:]
        counted = share >= config.warmup
        low = diversity < config.min_diversity
        low = low or metrics["recall"] < NOTHING_REACHED  # a few pictures far apart are diverse, and reach nothing
        memory.narrow = memory.narrow + 1 if counted and low and not improved and not widened else 0
        far = memory.best > 0 and score > config.divergence * memory.best
        memory.far = memory.far + 1 if counted and far else 0
        copied = metrics.get("memorisation", 1.0) < config.min_novelty and not low
        memory.copied = memory.copied + 1 if counted and copied else 0
        same = abs(score - last) <= UNCHANGED * abs(last)
        memory.unchanged = memory.unchanged + 1 if counted and same else 0

    def _judge(self, score: float, metrics: Mapping[str, float], signals: Mapping[str, float]) -> tuple[State, str]:
        """The verdict's state and cause. The discriminator's signals name it; they have not decided it."""
        memory, patience = self._memory, self._config.patience
        assert memory.best is not None
        assert memory.first is not None
        diversity = f"diversity {min(metrics['diversity'], metrics['pixel_diversity']):.2f} of the real data's"
        lost = signals["d_accuracy"] > D_CERTAIN and signals["g_gradient"] < GRADIENT_GONE
        cut_off = signals["g_gradient"] == 0 and signals.get("logit_fake", 0.0) > SATURATED
        lost = lost and not cut_off  # no gradient from logits that have one: the generator's own fault
        defeat = "the discriminator is never wrong and the generator's gradient is gone"
        if memory.copied >= SURE:
            near = f"{metrics['memorisation']:.2f} of the distance of unseen ones"
            return "memorised", f"samples lie at {near} from training examples in {memory.copied} reports"
        if memory.unchanged >= SURE:
            still = f"not one sample has changed in {memory.unchanged} reports"
            return ("discriminator_won", f"{defeat}; {still}") if lost else ("generator_stalled", still)
        if memory.narrow >= patience:
            stuck = f"{diversity}, no improvement in {memory.narrow} reports"
            if lost:
                return "discriminator_won", f"{defeat}; {stuck}"
            if memory.best > memory.first - HARDLY * abs(memory.first):
                return "generator_stalled", f"the generator has hardly improved on its first report; {stuck}"
            if _turns(memory.scores) >= TURNS:
                return "oscillation", f"the score swings between {_range(memory.scores)}; {stuck}"
            return "mode_collapse", f"recall {metrics['recall']:.2f}, {stuck}"
        if memory.far >= patience:
            away = f"the score is {score / memory.best:.1f} times its best, in {memory.far} reports"
            return ("discriminator_won", f"{defeat}; {away}") if lost else ("diverged", f"{away}; {diversity}")
        return "healthy", ""

    def state(self) -> dict[str, Any]:
        """What the next verdict depends on."""
        return asdict(self._memory)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._memory = _Memory(**state)


def _range(scores: list[float]) -> str:
    return f"{min(scores):.4g} and {max(scores):.4g}"


def _turns(scores: list[float]) -> int:
    """How often a score turned by a fifth or more: up after down, or down after up."""
    turns, way, extreme = 0, 0, scores[0]
    for score in scores[1:]:
        moved = 1 if score > extreme else -1
        if moved == way:
            extreme = score
        elif abs(score - extreme) >= SWING * max(abs(score), abs(extreme)):
            turns += way != 0
            way, extreme = moved, score
    return turns
