"""What early stopping makes of full learning curves of GANs.

    python benchmarks/collapse.py --held-out        # tables for RESULTS.md, on runs that nothing was fitted on
    python benchmarks/collapse.py                   # the same on the fitting half
    python benchmarks/collapse.py --fit             # choices of settings, compared on the fitting half
    python benchmarks/collapse.py --record [--family NAME] [--minutes 60] [--workers 2] [--mnist PATH]

--record trains random configurations of the search spaces to the end, two seeds each, with nothing stopped, and adds
the curves to benchmarks/learning_curves.parquet; it continues where it stopped. The others replay detectors and
schedulers over the curves.
"""

import argparse
import functools
import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from learning_curves import FAMILIES, SEEDS, TOP, Curve, Outcome, Outcomes, load_curves, record

from gantune.collapse import CollapseMonitor
from gantune.config import Asha, CollapseConfig
from gantune.driver.halving import Halving
from gantune.driver.schedulers import Remembering

AIMS = (  # policy, figure, and what it is to be at least, or at most for what is lost
    ("ours", "precision", 0.9),
    ("ours", "recall", 0.85),
    ("ours", "top lost", 0),
    ("ours + ASHA", "saved", 0.6),
    ("ours + ASHA", "regret", 0),
)
WORKERS = 4  # that the replay of a scheduler trains on at a time
BOOTSTRAPS, FIT_BOOTSTRAPS = 100, 40
AUTOGAN_WINDOW, AUTOGAN_VARIANCE = 3, 1e-3


# Detectors: where a run is stopped, by what it alone has shown


@dataclass(frozen=True, slots=True)
class Kill:
    """The report at which a run is stopped, and whether its best weights until then may still win."""

    index: int
    kept: bool = True


Detector = Callable[[Curve], Kill | None]


def nothing(curve: Curve) -> Kill | None:
    """Every run goes to its end, even one whose weights are no longer finite."""
    return None


def nan_only(curve: Curve) -> Kill | None:
    """A value that is not finite."""
    return next((Kill(index) for index, report in enumerate(curve.reports) if not report.finite), None)


def loss_variance(curve: Curve) -> Kill | None:
    """Losses of both networks that no longer vary. Gong et al. 2019, AutoGAN, section 3.3: below 1e-3."""
    for index in range(AUTOGAN_WINDOW - 1, len(curve.reports)):
        window = curve.reports[index - AUTOGAN_WINDOW + 1 : index + 1]
        if not window[-1].finite:
            return Kill(index)
        varying = [np.var([report.values.get(name, math.nan) for report in window]) for name in ("loss_d", "loss_g")]
        if max(varying) < AUTOGAN_VARIANCE:
            return Kill(index)
    return nan_only(curve)


def d_accuracy(curve: Curve) -> Kill | None:
    """A discriminator that is right in more than 95% of cases, twice in a row."""
    row = 0
    for index, report in enumerate(curve.reports):
        if not report.finite:
            return Kill(index)
        row = row + 1 if report.values["d_accuracy"] > 0.95 else 0
        if row == 2:
            return Kill(index)
    return None


def monitor(config: CollapseConfig) -> Detector:
    """Gantune's own."""

    def detect(curve: Curve) -> Kill | None:
        total = round(curve.reports[-1].samples_seen / curve.reports[-1].share)
        judge = CollapseMonitor(config, total)
        for index, report in enumerate(curve.reports):
            values = report.values
            verdict = judge.observe(report.samples_seen, report.score, values, values, report.finite)
            if verdict.dead:
                return Kill(index, kept=report.finite and verdict.state == "diverged")
        return None

    return detect


# Policies: a detector, and a scheduler that compares runs


class Scheduler:
    """Stops nothing."""

    def stops(self, number: int, curve: Curve, index: int) -> bool:
        """Whether run `number`, whose curve this is, is stopped at its report `index`."""
        return False

    def wakes(self, stopped: Collection[int]) -> int | None:
        """Which of the runs that it stopped is to go on after all."""
        return None


class Median(Scheduler):
    """Stops a run whose best is above the median of the others' running means. Golovin et al. 2017, section 3.2.1."""

    def __init__(self, grace: float = 0.25) -> None:
        self._grace = grace
        self._means: dict[int, dict[int, float]] = {}
        self._scores: dict[int, list[float]] = {}

    def stops(self, number: int, curve: Curve, index: int) -> bool:
        """After the grace, with at least three others that have come as far."""
        scores = self._scores.setdefault(number, [])
        scores.append(curve.reports[index].score)
        others = [mean for other, mean in self._means.setdefault(index, {}).items() if other != number]
        self._means[index][number] = statistics.fmean(scores)
        if curve.reports[index].share < self._grace or len(others) < 3:
            return False
        return min(scores) > statistics.median(others)


class Asynchronous(Scheduler):
    """gantune's own ASHA."""

    def __init__(self, config: Asha) -> None:
        self._config = config
        self._asha: Remembering | None = None

    def stops(self, number: int, curve: Curve, index: int) -> bool:
        """At a rung that the run does not pass."""
        report = curve.reports[index]
        if self._asha is None:
            rule = Halving(self._config, round(report.samples_seen / report.share))
            self._asha = Remembering(rule, self._config.spared, [])
        return self._asha.decide(number, report.samples_seen, report.score) == "STOP"

    def wakes(self, stopped: Collection[int]) -> int | None:
        """One that has come to be of its rung's best."""
        return None if self._asha is None else self._asha.wakes(stopped)


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides in a search."""

    name: str
    detector: Detector
    scheduler: Callable[[], Scheduler] = Scheduler


@dataclass(frozen=True, slots=True)
class Stopped:
    """How far one run came, in reports; the share of its budget that it spent; whether it was cut short.

    kept: whether its best weights may still win.
    """

    reports: int
    share: float
    cut: bool
    kept: bool = True


def play(policy: Policy, curves: Sequence[Curve], kills: Sequence[Kill | None]) -> list[Stopped]:
    """A search over the curves in their order, several at a time; a run takes as long as it has samples."""
    scheduler = policy.scheduler()
    found: dict[int, Stopped] = {}
    waiting = list(range(len(curves)))
    running: dict[int, tuple[float, int]] = {}  # when it began, and the report that comes next
    resting: dict[int, int] = {}  # the last report of a run that the scheduler stopped
    now = 0.0
    while True:
        while len(running) < WORKERS:
            woken = scheduler.wakes(resting)
            if woken is not None:
                index = resting.pop(woken)
                running[woken] = (now - curves[woken].reports[index].share, index + 1)
            elif waiting:
                running[waiting.pop(0)] = (now, 0)
            else:
                break
        if not running:
            break
        number = min(running, key=lambda run: (running[run][0] + curves[run].reports[running[run][1]].share, run))
        began, index = running[number]
        report, last = curves[number].reports[index], index == len(curves[number].reports) - 1
        now = began + report.share
        kill = kills[number]
        if kill is not None and kill.index == index:
            found[number] = Stopped(index + 1, report.share, not (last and report.finite), kill.kept)
        elif last:  # a run that goes on without a finite value spends its whole budget
            found[number] = Stopped(index + 1, 1.0, False)
        elif report.finite and scheduler.stops(number, curves[number], index):
            found[number] = Stopped(index + 1, report.share, True)
            resting[number] = index
        else:
            running[number] = (began, index + 1)
            continue
        del running[number]
    return [found[number] for number in range(len(curves))]


# Figures

FIGURES = ("precision", "good among them", "recall", "stopped at", "saved", "top lost", "regret")


@dataclass(frozen=True, slots=True)
class Played:
    """What a policy made of one family: its curves, how each ends when nothing stops it, and where it was stopped."""

    curves: Sequence[Curve]
    outcomes: Sequence[Outcome]
    ends: Sequence[Stopped]


def figures(families: Sequence[Played]) -> dict[str, float]:
    """What a policy made of one family, or of several.

    precision: share of the runs cut short that would have ended dead; good among them: share that would have ended
    good; recall: share of dead runs that were cut short; stopped at: median share of the budget at which; saved: share
    of all samples not spent; top lost: how many of a family's eight best runs were stopped before their best or lost
    it, the sum over families; regret: how far the best weights that may win lie above the best there were, the worst of
    the families.
    """
    every = [pair for part in families for pair in zip(part.outcomes, part.ends, strict=True)]
    cut = [outcome for outcome, end in every if end.cut]
    caught = [end.share for outcome, end in every if outcome == "dead" and end.cut]
    dead = sum(outcome == "dead" for outcome, _ in every)
    top, regrets = 0, []
    for part in families:
        ranked = sorted(range(len(part.curves)), key=lambda number: part.curves[number].best)
        reached = [
            curve.best_until(end.reports) if end.kept else math.inf
            for curve, end in zip(part.curves, part.ends, strict=True)
        ]
        top += sum(reached[number] > part.curves[number].best for number in ranked[:TOP])
        regrets.append(min(reached) / part.curves[ranked[0]].best - 1)
    return {
        "precision": cut.count("dead") / len(cut) if cut else math.nan,
        "good among them": cut.count("good") / len(cut) if cut else math.nan,
        "recall": len(caught) / dead if dead else math.nan,
        "stopped at": statistics.median(caught) if caught else math.nan,
        "saved": 1 - statistics.fmean(end.share for _, end in every),
        "top lost": top,
        "regret": max(regrets),
    }


def bootstrapped(policy: Policy, curves: Sequence[Curve], outcomes: Outcomes, times: int) -> list[Played]:
    """A family's configurations drawn anew and in random orders; both seeds of a configuration come together."""
    stream = random.Random(0)
    kills = {curve: policy.detector(curve) for curve in curves}
    grouped: dict[int, list[Curve]] = {}
    for curve in curves:
        grouped.setdefault(curve.config, []).append(curve)
    found = []
    for _ in range(times):
        drawn = [curve for config in stream.choices(list(grouped), k=len(grouped)) for curve in grouped[config]]
        stream.shuffle(drawn)
        ends = play(policy, drawn, [kills[curve] for curve in drawn])
        found.append(Played(drawn, [outcomes.of(curve) for curve in drawn], ends))
    return found


def policies() -> list[Policy]:
    """Everything that is compared."""
    ours = monitor(CollapseConfig())
    return [
        Policy("nothing", nothing),
        Policy("values not finite", nan_only),
        Policy("loss variance (AutoGAN)", loss_variance),
        Policy("D accuracy > 0.95 twice", d_accuracy),
        Policy("median rule", nan_only, Median),
        Policy("ASHA", nan_only, lambda: Asynchronous(Asha(spared=0.0))),
        Policy("ours", ours),
        Policy("ours + ASHA", ours, lambda: Asynchronous(Asha(spared=0.0))),
        Policy("ours + ASHA, some spared", ours, lambda: Asynchronous(Asha())),
    ]


def halved(*, held_out: bool) -> tuple[Outcomes, dict[str, list[Curve]]]:
    """One half of the corpus, by family, and how runs end when nothing stops them."""
    every = load_curves()
    half = [curve for curve in every if curve.held_out == held_out]
    print(f"{len(every)} curves, {len(half)} in the {'held-out' if held_out else 'fitting'} half")
    families = {family: [curve for curve in half if curve.family == family] for family in FAMILIES}
    return Outcomes(every), {family: curves for family, curves in families.items() if curves}


def replay(*, held_out: bool) -> None:
    """Print a table for each family, and one for all of them together."""
    outcomes, families = halved(held_out=held_out)
    played = {
        policy.name: [bootstrapped(policy, curves, outcomes, BOOTSTRAPS) for curves in families.values()]
        for policy in policies()
    }
    for number, (family, curves) in enumerate(families.items()):
        counts = Counter(outcomes.of(curve) for curve in curves)
        told = ", ".join(f"{counts[name]} {name}" for name in ("good", "slow", "dead"))
        print(f"\n### {family}: {len(curves)} runs, {told}; seeds alone part the best by {seed_noise(curves):.0%}\n")
        _table({name: [[each] for each in parts[number]] for name, parts in played.items()})
    print("\n### All families\n")
    whole = {name: list(zip(*parts, strict=True)) for name, parts in played.items()}
    _table(whole)
    print(f"\nAimed at, and reached by the median of {BOOTSTRAPS} draws:", end=" ")
    print("; ".join(_reached(whole, *aim) for aim in AIMS))


def _reached(played: Mapping[str, Sequence[Sequence[Played]]], policy: str, figure: str, aim: float) -> str:
    """What a policy was to reach, and by how much it misses it."""
    middle = statistics.median(figures(each)[figure] for each in played[policy])
    short = middle - aim if figure in ("top lost", "regret") else aim - middle
    return f"{policy}, {figure} {middle:.2f} of {aim:.2f}" + (f" (missed by {short:.2f})" if short > 0 else "")


def _table(played: Mapping[str, Sequence[Sequence[Played]]]) -> None:
    """A line for each policy, from its bootstraps."""
    print("| policy | " + " | ".join(FIGURES) + " |")
    print("|---" * (len(FIGURES) + 1) + "|")
    for name, times in played.items():
        found = [figures(each) for each in times]
        cells = [_interval([one[figure] for one in found]) for figure in FIGURES]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def fit() -> None:
    """Print what choices of the monitor's and the scheduler's settings make of the fitting half."""
    outcomes, families = halved(held_out=False)
    print("\n| patience | min_improvement | min_diversity | precision | recall | saved | top lost |")
    print("|---" * 7 + "|")
    for patience, better, diverse in itertools.product((2, 3, 4, 5), (0.05, 0.1, 0.15, 0.2, 0.25), (0.4, 0.5, 0.6)):
        config = CollapseConfig(patience=patience, min_improvement=better, min_diversity=diverse)
        detect, parts = monitor(config), []
        for curves in families.values():
            ends = play(Policy("ours", detect), curves, [detect(curve) for curve in curves])
            parts.append(Played(curves, [outcomes.of(curve) for curve in curves], ends))
        found = figures(parts)
        shown = " | ".join(f"{found[name]:.2f}" for name in ("precision", "recall", "saved"))
        print(f"| {patience} | {better} | {diverse} | {shown} | {found['top lost']:.0f} |")
    print("\n| first_rung | reduction | saved | regret, by family |")
    print("|---" * 4 + "|")
    for first_rung, reduction in itertools.product((0.08, 0.15, 0.25, 0.33), (2.0, 3.0, 4.0)):
        config = Asha(first_rung=first_rung, reduction=reduction, spared=0.0)
        policy = Policy("ours + ASHA", monitor(CollapseConfig()), functools.partial(Asynchronous, config))
        runs = [bootstrapped(policy, curves, outcomes, FIT_BOOTSTRAPS) for curves in families.values()]
        saved = statistics.fmean(figures(each)["saved"] for each in zip(*runs, strict=True))
        regrets = "; ".join(_interval([figures([each])["regret"] for each in run]) for run in runs)
        print(f"| {first_rung} | {reduction:.0f} | {saved:.2f} | {regrets} |", flush=True)


def seed_noise(curves: Sequence[Curve]) -> float:
    """How far the two seeds of a configuration differ in their best score, the median over the better half."""
    pairs: dict[int, list[float]] = {}
    for curve in curves:
        pairs.setdefault(curve.config, []).append(curve.best)
    whole = sorted((sorted(pair) for pair in pairs.values() if len(pair) == SEEDS), key=lambda pair: pair[0])
    gaps = [pair[1] / pair[0] - 1 for pair in whole[: max(1, len(whole) // 2)]]
    return statistics.median(gaps) if gaps else math.nan


def _interval(values: Sequence[float]) -> str:
    """Median, and the middle 90%."""
    known = sorted(value for value in values if math.isfinite(value))
    if not known:
        return "-"
    low, middle, high = (known[round(share * (len(known) - 1))] for share in (0.05, 0.5, 0.95))
    return f"{middle:.2f} ({low:.2f}..{high:.2f})"


def main() -> None:
    """Record or replay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mnist", help="a local Parquet file or folder of MNIST")
    chosen = parser.parse_args()
    if chosen.record:
        record(chosen.family or list(FAMILIES), chosen.minutes, chosen.workers, chosen.mnist)
    elif chosen.fit:
        fit()
    else:
        replay(held_out=chosen.held_out)


if __name__ == "__main__":
    main()
