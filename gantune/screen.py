"""A search's situation drawn with rich: one line, or a picture that fits a terminal."""

import math
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from gantune.plan import Preparation
from gantune.situation import Lead, Running, Situation, label
from gantune.spending import duration
from gantune.stage import Stage

BAR = 20
CURVE = 16  # characters
FAR = 10
MOST_PLACES = 4
GAP = "  "
STATES = ("finished", "paused", "pruned", "collapsed", "failed")
SLACK = 1.2  # for final scores, and for a pace that varies
SESSION = Preparation().total  # seconds of a session besides its training
STYLES = {"finished": "green", "paused": "cyan", "pruned": "", "collapsed": "yellow", "failed": "red"}
DROPPED = ("place", "ago", "gpu", "best", "scores")  # columns that go first where the terminal is narrow
LEFT = ("scores", "place")  # aligned


def overview(situation: Situation) -> str:
    """Progress, counts, best so far and time left, in one line."""
    done, asked, counts = situation.done, situation.asked, situation.counts
    parts = [f"[{bar(done, asked, '#-')}] {done}/{asked}", _open(situation)]
    parts += [f"{counts['paused']} paused"] if counts.get("paused") else []
    parts += [situation.stage] if situation.stage else []
    parts += [f"{counts[state]} {state}" for state in ("pruned", "collapsed", "failed") if counts.get(state)]
    if situation.best is not None:
        parts.append(f"best {_lead(situation.best)}")
    return GAP.join([*parts, *([left] if (left := time_left(situation)) else [])])


def time_left(situation: Situation) -> str:
    """Return the time left in words; nothing where nobody trains."""
    if not situation.running or situation.done >= situation.asked:
        return ""
    if situation.seconds_left is None:
        return "time left not known yet"
    return f"{duration(situation.seconds_left)} left"


def _open(situation: Situation) -> str:
    """How many trials train, and how many wait for a worker where any do."""
    waiting = f"{GAP}{len(situation.waiting)} waiting" if situation.waiting else ""
    return f"{len(situation.running)} running{waiting}"


def preparing(stage: Stage) -> str:
    """Return how far a search is that trains nothing yet, in one line."""
    share = "" if stage.share is None else f", {stage.share:.0%}"
    return f"preparing: {stage.name}{share}, {duration(max(0.0, time.time() - stage.began))} since it began"


def unfinished(situation: Situation, run: str) -> str:
    """What it takes to finish the trials that the end of a budget paused; nothing where there are none."""
    if not situation.unfinished:
        return ""
    many = situation.unfinished != 1
    paused = f"{situation.unfinished} trial{'s are' if many else ' is'} paused"
    seconds = situation.unfinished_seconds
    if seconds is None:
        return f"{paused}; continue with: gantune resume {shlex.quote(run)} --set budget.hours=HOURS"
    more, wall = [], seconds * SLACK + SESSION
    for limit in situation.limits:
        hours = max(situation.spending.hours, 1e-9)
        share = {"hours": wall, "cost": wall}.get(limit.name, seconds * SLACK) / 3600 / hours
        needed = wall / 3600 if limit.name == "hours" else limit.spent * share
        if limit.spent + needed > limit.limit:
            more.append(f" --set budget.{limit.name}={_rounded_up(limit.spent + needed)}")
    if situation.target is not None and situation.best is not None and situation.best.score <= situation.target:
        more.append(" --set budget.target=null")
    it = "them" if many else "it"
    return (
        f"{paused}; finishing {it} takes about {(seconds + SESSION) / 3600:.2g} hours more on this machine: "
        f"gantune resume {shlex.quote(run)}{''.join(more)}"
    )


def _rounded_up(value: float) -> str:
    """A number of two digits that is no less, as a space file takes it."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:.12g}"


def bar(done: int, asked: int, marks: str) -> str:
    """A bar of what is done, from a mark for it and one for the rest."""
    filled = round(BAR * min(1.0, done / asked)) if asked else BAR
    return marks[0] * filled + marks[1] * (BAR - filled)


def curve(scores: Sequence[float], *, plain: bool = False) -> str:
    """Scores as a line of bars, the lower the better; in ASCII where it is to be plain.

    By their logarithm where they fall far, or the first ones would leave nothing of the others.
    """
    marks = "_.-~=+*#" if plain else "▁▂▃▄▅▆▇█"
    last = scores[-CURVE:]
    if last and min(last) > 0 and max(last) > FAR * min(last):
        last = [math.log(score) for score in last]
    low, span = min(last, default=0.0), max(last, default=0.0) - min(last, default=0.0)
    steps = (0 if not span else round((score - low) / span * (len(marks) - 1)) for score in last)
    return "".join(marks[step] for step in steps)


class Picture:
    """A situation for a rich console, in as many lines and columns as it has. `note` stands below it."""

    def __init__(self, situation: Situation, note: str = "") -> None:
        self._situation = situation
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = not console.encoding.startswith("utf")
        width = options.max_width
        head = [line for text in self._head(plain) for line in text.wrap(console, width)]
        foot = list(Text(self._note).wrap(console, width)) if self._note else []
        room = max(1, console.size.height - len(head) - len(foot) - 3) if console.is_terminal else None
        for line in [*head, *self._rows(width, room, plain), *foot]:
            line.truncate(width)
            line.no_wrap = True
            yield line

    def _head(self, plain: bool) -> Iterable[Text]:
        now = self._situation
        left = f", {left}" if (left := time_left(now)) else ""
        title = Text(now.name, style="bold")
        title.append(f"{GAP}{bar(now.done, now.asked, '#-' if plain else '█░')}", style="not bold cyan")
        what = " runs of finalists" if now.confirming else ""
        title.append(f"{GAP}{now.done}/{now.asked}{what}{GAP}{duration(now.seconds)}{left}", style="not bold")
        yield title
        yield self._counts()
        if now.best is not None:
            best = Text(f"best {now.score_name} ").append(_lead(now.best), style="bold green")
            best.append(f"{GAP}baseline {now.baseline:.4g}" if now.baseline is not None else "")
            yield best.append(f"{GAP}target {now.target:g}" if now.target is not None else "")
        spent = [f"{each.name} {_amount(each.spent)} of {_amount(each.limit)}" for each in now.limits]
        if used := [*spent, *([use] if (use := self._use()) else [])]:
            yield Text(GAP.join(used))

    def _counts(self) -> Text:
        now = self._situation
        counts = Text(_open(now))
        for state in STATES:
            if now.counts.get(state):
                counts.append(GAP).append(f"{now.counts[state]} {state}", style=STYLES[state])
            if state == "collapsed" and now.causes:
                counts.append(f": {causes(now.causes)}")
        return counts.append(f"{GAP}{now.stage}" if now.stage else "")

    def _use(self) -> str:
        """The GPUs in use where any are told of, else the CPUs."""
        now = self._situation
        places: dict[str, list[Running]] = {}
        for trial in now.running:
            if trial.gpu_utilization is not None:
                places.setdefault(trial.place, []).append(trial)
        told = []
        for place, trials in sorted(places.items()):
            newest = min(trials, key=lambda trial: trial.seconds_ago or 0.0)
            told.append(f"{place} {_gpu(newest)} by {len(trials)}")
        if told:
            more = f"{GAP}and {len(told) - MOST_PLACES} more" if len(told) > MOST_PLACES else ""
            return f"GPU, memory: {GAP.join(told[:MOST_PLACES])}{more}"
        cpus = (now.cpus_per_trial or 0.0) * sum(trial.samples_seen > 0 for trial in now.running)
        if not cpus or any("gpu" in trial.place for trial in now.running):
            return ""
        return f"{cpus:g} CPU{'s' * (cpus != 1)} in use"

    def _rows(self, width: int, room: int | None, plain: bool) -> Iterable[Text]:
        """A line for each trial that trains or waits, under titles; columns that do not fit are left out."""
        now = self._situation
        every = [*now.running, *now.waiting]
        if not every:
            return
        shown = every if room is None or len(every) <= room else every[: max(1, room - 1)]
        table = [_cells(trial, now.samples_per_trial, plain) for trial in shown]
        for cells in table[len(now.running) :]:
            cells["ago"] = "waiting"
        columns = [name for name in table[0] if any(cells[name] for cells in table)]
        widths = {name: max(len(name), *(len(cells[name]) for cells in table)) for name in columns}
        for name in DROPPED:
            if sum(widths[each] + len(GAP) for each in columns) > width and name in columns:
                columns.remove(name)

        def line(cells: Mapping[str, str]) -> str:
            aligned = (
                cells[name].ljust(widths[name]) if name in LEFT else cells[name].rjust(widths[name]) for name in columns
            )
            return GAP.join(aligned).rstrip()

        yield Text(line({name: name for name in columns}), style="dim")
        for cells in table:
            yield Text(line(cells))
        if len(shown) < len(every):
            yield Text(f"and {len(every) - len(shown)} more", style="dim")


def causes(counted: Mapping[str, int]) -> str:
    """Verdicts with their counts, the most frequent first."""
    if len(counted) == 1:
        return next(iter(counted))
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counted.items(), key=lambda item: -item[1]))


def _cells(trial: Running, samples: int, plain: bool) -> dict[str, str]:
    return {
        "trial": trial.label,
        "samples": f"{trial.samples_seen:,}/{samples:,}",
        "score": _number(trial.score),
        "best": _number(trial.best_score),
        "scores": curve(trial.scores, plain=plain),
        "gpu": _gpu(trial),
        "ago": "" if trial.seconds_ago is None else duration(trial.seconds_ago),
        "place": trial.place,
    }


def _gpu(trial: Running) -> str:
    shares = [share for share in (trial.gpu_utilization, trial.gpu_memory) if share is not None]
    return " ".join(f"{share:.0%}" for share in shares)


def _lead(best: Lead) -> str:
    return f"{best.score:.4g} ({label(best.trial, best.repeat)})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
