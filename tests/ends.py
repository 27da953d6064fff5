"""Searches that are ended at a random moment, and what must then be true of their record.

`end_and_finish` ends one search, compares the record with the kept weights, finishes the search, and compares every
number with a search that was never ended. tests/test_ends.py and benchmarks/ends.py call it.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pyarrow.parquet as pq
import ray
from click.testing import CliRunner

import gantune
from gantune.checkpoint import read_checkpoint
from gantune.cli.main import cli
from gantune.driver.connection import QUIET
from gantune.errors import CheckpointError, GantuneError
from gantune.objectives import OF_MACHINES
from gantune.records import ENDED, standings_of, trials_and_repeats
from gantune.run import Run

import psutil  # isort: skip  # Ray brings it along

SPACE = {
    "version": 1,
    "name": "ends",
    "data": {"dataset": "gaussians8"},
    "objective": {
        "metric": "fid",
        "features": "pixels",
        "samples": {"report": 200, "final": 400},
        "reports": 10,
    },
    "budget": {"trials": 5, "samples_per_trial": 16_000, "price_per_hour": 3600.0},
    "search": {"scheduler": "none", "sampler": "random"},
    "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0},
    "space": {
        "architecture": {"mlp": {"hidden": [16, 32], "depth": 2, "z_dim": 2}},
        "loss": ["non_saturating", "hinge"],
        "optimizer": "adam",
        "lr_g": "log 1e-4..1e-2",
        "batch_size": 32,
    },
}
CONFIRMED = ("confirm.top=1", "confirm.seeds=2")
BUDGETS = ("samples", "hours", "cost", "gpu_hours", "target")
TIMES = ("hours", "cost", "gpu_hours")
BY_PEOPLE = ("stop", "SIGINT", "SIGTERM")
WAYS = (*BUDGETS, "kill", *BY_PEOPLE, "SIGKILL", "worker")
MOST_TRIES = 12
LONGEST = 300.0  # seconds for one search
INTERRUPTED = 130  # exit code


@contextlib.contextmanager
def shared_ray(cpus=2):
    """Start one Ray for all searches of this process, with two GPUs that torch does not see."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    ray.init(
        "local",
        num_cpus=cpus,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
    )
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Peace:
    """A search that was never ended, finalists included."""

    run: Run
    rows: list = field(repr=False)

    @staticmethod
    def search(folder):
        run = gantune.search(SPACE, name="peace", runs=folder, overrides=CONFIRMED, progress=False)
        return Peace(run, run.rows())

    def told(self, *, confirmed):
        """The rows in the order of the run's clock, with those of the finalists or without."""
        return [row for row in self.rows if confirmed or not row.repeat]

    def spent(self, name, *, confirmed):
        """The lowest and the highest amount of a budget at which the search is neither new nor finished."""
        own, every = self.told(confirmed=False), self.told(confirmed=confirmed)
        if name == "samples":
            first = _samples(own) if confirmed else 0
            return first + 1, _samples(every) - 1
        if name == "gpu_hours":
            first = _seconds(own) if confirmed else 0.0
            return first / 3600, _seconds(every) / 3600
        first = own[-1 if confirmed else 0].run_seconds
        scale = 1 if name == "cost" else 1 / 3600
        return first * scale, every[-1].run_seconds * scale

    def targets(self):
        """Scores of which each was a new lowest score, without the first ones and the last one."""
        lowest, found = float("inf"), []
        for row in self.told(confirmed=False):
            if row.best_score is not None and row.best_score < lowest:
                lowest = row.best_score
                found.append(lowest)
        return found[3:-1]


def _samples(rows):
    return sum({(row.trial, row.repeat): row.samples_seen for row in rows}.values())


def _seconds(rows):
    return sum({(row.trial, row.repeat): row.trial_seconds for row in rows}.values())


# How a search is ended


@dataclass
class Ended:
    """A search that has been ended. `how` is for people; `budget`: whether a budget ended it.

    `finish` are the overrides with which it can be finished, None where it has finished by itself. `short` are trials
    that are not to be trained to their end.
    """

    run: Run
    how: str
    budget: bool = False
    finish: tuple = ()
    short: frozenset = frozenset()
    problems: list = field(default_factory=list)


class TooEarlyError(Exception):
    """The end came before the first report."""


class TooLateError(Exception):
    """The search was finished before it could be ended."""


def _end(way, folder, peace, rng, confirmed):
    """End a search in a way; another one where the end came too early or too late."""
    low, high = (0.0, 1.0) if way not in BUDGETS[:4] else peace.spent(way, confirmed=confirmed)
    slack = 1.5 if way in TIMES else 1.0  # the machine may be at another pace than it was for the search in peace
    for attempt in range(MOST_TRIES):
        name = f"{way}-{attempt}"
        chosen = low + rng.uniform(0.1, 0.9) * (high - low)
        try:
            if way in BUDGETS:
                return _end_by_budget(way, name, folder, peace, rng, chosen, confirmed)
            return _end_by_process(way, name, folder, peace, rng, chosen, confirmed)
        except TooEarlyError:
            low, high = chosen, max(high, chosen * slack)
        except TooLateError:
            low, high = min(low, chosen / slack), chosen
    raise AssertionError(f"{way}: no search could be ended in {MOST_TRIES} tries")


def _end_by_budget(way, name, folder, peace, rng, chosen, confirmed):
    overrides = CONFIRMED if confirmed else ()
    finish = rng.choice([f"budget.{way}=null", f"budget.{way}=1000000"])
    if way == "samples":
        chosen = int(chosen)
    elif way == "target":
        chosen = rng.choice(peace.targets())
        finish = rng.choice(["budget.target=null", "budget.target=1e-9"])
    elif way == "gpu_hours":
        overrides = (*overrides, "resources.gpus_per_trial=1")
    run = gantune.search(
        SPACE, name=name, runs=folder, overrides=[*overrides, f"budget.{way}={chosen!r}"], progress=False
    )
    rows = run.rows()
    if not rows:
        raise TooEarlyError
    trials, repeats = trials_and_repeats(rows)
    if len(trials) == SPACE["budget"]["trials"] and all(one.state in ENDED for one in trials):
        finalists = {key for key, _ in _by_trial(peace.rows).items() if key[1]}
        if not confirmed or {(one.number, one.repeat) for one in repeats if one.state in ENDED} >= finalists:
            raise TooLateError
    reached = [one.number for one in trials if one.state == "finished"] if way == "target" else []
    return Ended(
        run,
        f"budget.{way}={chosen:.6g}",
        budget=True,
        finish=(finish,),
        short=frozenset((number, 0) for number in reached),
    )


class Driver:
    """`gantune search` in a process and a session of its own."""

    def __init__(self, folder, name, overrides):
        path = folder / "space.json"
        path.write_text(json.dumps(SPACE))
        words = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, "-m", "gantune", "search", path, "--runs", folder, "--name", name, *words]
        self.log = folder / f"{name}.log"
        with self.log.open("w") as stream:
            self._process = subprocess.Popen(
                command, cwd=folder, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.run = Run(folder / name)

    def wait_for_rows(self, count):
        """Wait until the search has reported so often. Raises TooLateError where it ended before."""
        until = time.monotonic() + LONGEST
        while _count(self.run) < count:
            if self._process.poll() is not None:
                if self._process.returncode != 0:
                    raise AssertionError(f"the search ended with {self._process.returncode}:\n{self.log.read_text()}")
                raise TooLateError
            assert time.monotonic() < until, f"the search came to {_count(self.run)} of {count} rows"
            time.sleep(0.02)

    def send(self, number):
        """Send the driver a signal, if it still runs."""
        self._process.send_signal(number)

    def kill_worker(self, rng):
        """Kill one of the processes that train; whether there was one."""
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return False
        training = [child for child in children if _title(child).startswith(TRAINING)]
        if not training:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice(training).kill()
            return True
        return False

    def wait(self):
        """Wait until the driver and all that it started have ended, and return its exit code."""
        code = self._process.wait(timeout=LONGEST)
        until = time.monotonic() + 60
        while (left := self._session()) and time.monotonic() < until:
            time.sleep(0.05)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
        return code

    def _session(self):
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                if os.getsid(pid) == self._process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(psutil.Process(pid))
        return found


TRAINING = ("ray::GanTrainable", "ray::ResourceTrainable")


def _title(process):
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def _count(run):
    """How many rows the results hold."""
    while True:
        try:
            return sum(pq.read_metadata(part).num_rows for part in run.folder.glob("results/part-*.parquet"))
        except FileNotFoundError:  # merged meanwhile
            continue


def _end_by_process(way, name, folder, peace, rng, share, confirmed):
    first = len(peace.told(confirmed=False)) if confirmed else 0
    last = len(peace.told(confirmed=confirmed))
    count = first + max(1, round(share * (last - first)))
    driver = Driver(folder, name, CONFIRMED if confirmed else ())
    how, killed, done = f"{way} after {count} rows", None, True
    try:
        driver.wait_for_rows(count)
        time.sleep(rng.uniform(0, 0.2))
        if way == "kill":
            killed = _kill_a_trial(driver.run)
            how, done = f"kill {killed} after {count} rows", killed is not None
        elif way == "stop":
            done = _stop(driver.run)
        elif way == "worker":
            done = driver.kill_worker(rng)
        else:
            driver.send(signal.Signals[way])
    except BaseException:
        driver.send(signal.SIGKILL)
        raise
    finally:
        code = driver.wait()
    expected = {"kill": 0, "worker": 0, "SIGKILL": -signal.SIGKILL}.get(way, INTERRUPTED)
    if not done or (code == 0 and expected != 0):
        raise TooLateError
    ended = Ended(driver.run, how, finish=None if expected == 0 else ())
    if code != expected:
        ended.problems.append(f"exit code {code} instead of {expected}:\n{driver.log.read_text()}")
    if killed is not None:
        ended.short = frozenset([(killed, 0)])
    return ended


def _kill_a_trial(run):
    """Ask for the end of the youngest running trial; None where every trial ended by itself."""
    while run.driven():
        seen = {row.trial: row for row in run.results.rows() if not row.repeat}
        running = [row for row in seen.values() if row.state == "running"]
        if not running:
            time.sleep(0.05)
            continue
        chosen = min(running, key=lambda row: row.samples_seen).trial
        told = CliRunner().invoke(cli, ["kill", str(chosen), str(run.folder)])
        if told.exit_code == 0 and "by itself" not in told.output:
            return chosen
    return None


def _stop(run):
    told = CliRunner().invoke(cli, ["stop", str(run.folder)])
    return told.exit_code == 0 and "before it heard" not in told.output


# What must be true of a record


def _by_trial(rows):
    found = {}
    for row in rows:
        found.setdefault((row.trial, row.repeat), []).append(row)
    return found


def _label(key):
    return f"trial {key[0]}.{key[1]}" if key[1] else f"trial {key[0]}"


def _meta(path, kind):
    """What a checkpoint says of itself; None where there is none."""
    try:
        return read_checkpoint(path, kind)[1]
    except CheckpointError:
        if path.exists():
            raise
        return None


def differences_from_the_weights(run, *, budget=False, finished=False, killed=False):
    """What a record says of its trials other than their kept weights do, a line each.

    budget: whether a budget has just ended the search. finished: whether it is at its end. killed: whether the driver
    was killed, perhaps between the last row of a trial and the deletion of the checkpoint that it needs no more.
    """
    rows = run.rows()
    told = _by_trial(rows)
    trials, repeats = trials_and_repeats(rows)
    known = {(one.number, one.repeat): one for one in [*trials, *repeats]}
    found = []
    for folder in sorted(run.folder.glob("trials/*")):
        number, _, repeat = folder.name.partition(".")
        key = int(number), int(repeat or 0)
        if key not in known:
            left = sorted(path.name for path in folder.rglob("*"))
            if budget and left:
                found.append(f"{_label(key)} never began, and its folder holds {', '.join(left)}")
            elif any(name.endswith(".safetensors") for name in left):
                found.append(f"{_label(key)} has no row, and weights: {', '.join(left)}")
    for key, record in known.items():
        folder = run.trial_folder(*key)
        best, latest = _meta(folder / "best.safetensors", "generator"), _meta(folder / "latest.safetensors", "trial")
        found += [f"{_label(key)}: {text}" for text in _of_best(record, told[key], best)]
        found += [f"{_label(key)}: {text}" for text in _of_latest(record, told[key], latest, best, killed)]
        expected = _states(record, budget=budget, finished=finished)
        if record.state not in expected:
            found.append(f"{_label(key)}: is {record.state} instead of {' or '.join(expected)}")
    if finished and sorted(map(repr, rows)) != sorted(map(repr, run.results.rows())):
        found.append("the search is finished, and its results lack rows that its checkpoints bring")
    return found + _answers(run, known, standings_of(repeats))


def _of_best(record, rows, meta):
    says = (record.best_score, record.best_samples_seen if record.best_score is not None else None)
    kept = (None, None) if meta is None else (meta["score"], meta["samples_seen"])
    if says != kept:
        yield f"the record has best score {says[0]} at {says[1]} samples, best.safetensors has {kept[0]} at {kept[1]}"
    if meta is not None and not any((row.samples_seen, row.score) == kept[::-1] for row in rows):
        yield f"no row has best.safetensors' score {kept[0]} at {kept[1]} samples"


def _of_latest(record, rows, meta, best, killed):
    last = rows[-1]
    if meta is not None and best is not None and meta["progress"]["samples_seen"] < best["samples_seen"]:
        meta = {"progress": best["progress"]}  # which is written first, and may be a report ahead
    if meta is None:
        if record.state not in ENDED and last.samples_seen:
            yield f"is {record.state} at {last.samples_seen} samples without latest.safetensors"
        return
    if record.state in ENDED and record.state != "failed" and not killed:
        yield f"is {record.state}, and has latest.safetensors"
    progress = meta["progress"]
    for name in ("samples_seen", "score", "best_score"):
        if getattr(last, name) != progress[name]:
            yield f"the last row has {name} {getattr(last, name)}, latest.safetensors has {progress[name]}"


def _states(record, *, budget, finished):
    if finished or record.state in ENDED:
        return ENDED
    return ("paused",) if budget else ("running",)


def _answers(run, known, standings):
    """Where the verbs name another trial or another score than the kept weights do."""
    kept = {
        key: (meta["score"], key[0], key[1])
        for key, one in known.items()
        if one.survived and (meta := _meta(run.trial_folder(*key) / "best.safetensors", "generator")) is not None
    }
    own = min((kept[key] for key in kept if not key[1]), default=None)
    shown = min((kept[key] for key in kept if key[1]), default=None) if any(key[1] for key in known) else own
    first = kept.get((standings[0].number, 0), own) if standings else own  # of finalists who stands first
    found = []
    best = _json("best", run)
    if (best["trial"], best.get("score")) != ((None, None) if first is None else (first[1], first[0])):
        found.append(f"`best` names #{best['trial']} with {best.get('score')}; the kept weights say {first}")
    if first is not None and best["samples_seen"] != known[first[1], 0].best_samples_seen:
        found.append(f"`best` names {best['samples_seen']} samples instead of {known[first[1], 0].best_samples_seen}")
    for verb, lead, expected in (
        ("status", _json("status", run)["situation"]["best"], shown),
        ("ls", next(one["best"] for one in _json("ls", run) if one["name"] == run.name), own),
    ):
        said = None if lead is None else (lead["score"], lead["trial"], lead["repeat"])
        if said != expected:
            found.append(f"`{verb}` says that the best is {said}; the kept weights say {expected}")
    return found


def _json(verb, run):
    where = ["--runs", str(run.folder.parent)] if verb == "ls" else [str(run.folder)]
    told = CliRunner().invoke(cli, [verb, *where, "--json"])
    if not told.stdout.strip():
        raise AssertionError(f"gantune {verb} of {run.folder} printed nothing: {told.exception!r}")
    return json.loads(told.stdout)


def differences_from_peace(peace, run, *, confirmed=False, short=frozenset()):
    """What the rows of a finished search say other than those of one that was never ended do, a line each.

    short: trials that were not trained to their end; what they have must be the beginning.
    """
    finalists = confirmed and not short  # without such a trial the finalists may be others
    ours, theirs = _by_trial(run.rows()), _by_trial(peace.told(confirmed=True))
    found = []
    for key in sorted({*ours, *theirs}):
        if key[1] and not finalists:
            continue
        own, other = _moments(ours.get(key, [])), _moments(theirs.get(key, []))
        missing, more = sorted({*other} - {*own}), sorted({*own} - {*other})
        if key in short:
            missing = [moment for moment in missing if own and moment < max(own)]
        found += [f"{_label(key)}: has no row at {moment} samples" for moment in missing]
        found += [f"{_label(key)}: has a row at {moment} samples too many" for moment in more]
        for moment in sorted({*own} & {*other}):
            last = moment == max(own)
            found += [
                f"{_label(key)} at {moment} samples: {text}"
                for text in _compared(own[moment], other[moment], last=last, short=key in short)
            ]
    return found


def _moments(rows):
    """The rows of one trial by samples seen; of repeated ones the last, without those that mark a new start."""
    return {row.samples_seen: row for row in rows if row.samples_seen}


def _compared(own, other, *, last, short):
    mine, its = _numbers(own), _numbers(other)
    if last and short:
        mine = {name: value for name, value in mine.items() if not name.startswith("final_")}
        its = {name: value for name, value in its.items() if not name.startswith("final_")}
    elif last:
        mine["state"], its["state"] = own.state, other.state
    for name in sorted({*mine, *its}):
        if mine.get(name) != its.get(name):
            yield f"{name} is {mine.get(name)} instead of {its.get(name)}"


def _numbers(row):
    numbers = {name: value for name, value in row.metrics.items() if name not in OF_MACHINES and "seconds" not in name}
    evidence = {f"evidence.{name}": value for name, value in row.evidence.items() if name not in OF_MACHINES}
    plain = {name: getattr(row, name) for name in ("score", "best_score", "seed", "config", "verdict")}
    return {**numbers, **evidence, **plain}


def end_and_finish(way, folder, peace, seed, *, confirmed=False):
    """End a search at a random moment, finish it, and return it with all that was found wrong."""
    rng = random.Random(f"{way} {seed}")
    ended = _end(way, folder, peace, rng, confirmed)
    run, problems = ended.run, ended.problems
    found = differences_from_the_weights(
        run, budget=ended.budget, finished=ended.finish is None, killed=way == "SIGKILL"
    )
    problems += _after("the end", found)
    if ended.short:
        state = "pruned" if way == "kill" else "finished"
        trials = {one.number: one for one in run.trials()}
        for number, _ in ended.short:
            if trials[number].state != state or (state == "finished" and trials[number].final_score is None):
                problems.append(f"trial {number} is {trials[number].state} with {trials[number].metrics}, not {state}")
    if ended.finish is not None:
        try:
            gantune.resume(run.folder.name, runs=folder, overrides=ended.finish, progress=False)
        except GantuneError as error:
            problems.append(f"it cannot be finished: {error}")
        problems += _after("finishing", differences_from_the_weights(run, finished=True))
    problems += _after("finishing", differences_from_peace(peace, run, confirmed=confirmed, short=ended.short))
    return ended


def _after(what, problems):
    return [f"after {what}: {text}" for text in problems]
