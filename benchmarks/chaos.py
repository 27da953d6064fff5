"""A search whose processes are killed at random, against the same search left in peace: every number must be the same.

    python benchmarks/chaos.py --trials 40 --kills 30

Kills the driver, a worker or the raylet, and starts the driver again by the same command. Only descendants of a driver
that this script started are touched. Exits with 1 on any difference.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna
import ray  # noqa: F401  it brings psutil along
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gantune.results import ENDED
from gantune.run import Run

import psutil  # isort: skip

SPACE = """
version: 1
name: chaos
data: {dataset: digits, size: 8}
objective: {samples: {report: 300, final: 300}, reports: 6}
search: {scheduler: none, sampler: random, retries: 100}
collapse: {enabled: false}
space:
  architecture: {mlp: {hidden: [32, 64]}}
  loss: [non_saturating, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-3
  batch_size: [32, 64]
"""
VICTIMS = ("driver", "worker", "raylet")
LONGEST = 900  # seconds for a search that is not killed


class Driver:
    """One `gantune search` and what it has started."""

    def __init__(self, folder: Path, trials: int, samples: int) -> None:
        self._command = [sys.executable, "-m", "gantune", "search", "chaos.yaml", "--set", f"budget.trials={trials}"]
        self._command += ["--set", f"budget.samples_per_trial={samples}"]
        self._folder = folder
        self.log = folder / "driver.log"
        (folder / "chaos.yaml").write_text(SPACE)
        self.known: dict[int, psutil.Process] = {}
        self.start()

    def start(self) -> None:
        """Start the command, the same each time."""
        with self.log.open("a") as stream:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=stream, stderr=stream)

    def look(self) -> list[psutil.Process]:
        """The descendants that live, remembered for the time when they have no parent."""
        try:
            found = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self.known.update({process.pid: process for process in found})
        return found

    def ended(self) -> int | None:
        """The driver's exit status; None while it runs."""
        return self._process.poll()

    def kill(self, victim: str) -> bool:
        """Kill one process of a kind, kill -9; whether there was one."""
        found = self.look()
        if victim == "driver":
            self._process.kill()
            self._process.wait()
            self.clean()
            return True
        names = {process: _name(process) for process in found}
        wanted = ("ray::GanTrainable", "ray::ResourceTrainable") if victim == "worker" else "raylet"
        chosen = [process for process, name in names.items() if name.startswith(wanted)]
        if not chosen:
            return False
        random.choice(chosen).kill()
        return True

    def clean(self) -> None:
        """End what a killed driver has left behind: processes seen as its descendants, and no others."""
        for process in self.known.values():
            try:
                process.kill()  # psutil checks that the id is still that process's
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(list(self.known.values()), timeout=10)
        self.known = {}


def _name(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
    return Path(words[0]).name if words and words[0].endswith("raylet") else " ".join(words)


def undisturbed(folder: Path, trials: int, samples: int) -> Run:
    """The search in peace."""
    driver = Driver(folder, trials, samples)
    until = time.monotonic() + LONGEST
    while driver.ended() is None and time.monotonic() < until:
        driver.look()
        time.sleep(0.2)
    code = driver.ended()
    driver.clean()
    if code != 0:
        raise SystemExit(f"the search in peace ended with {code}:\n{driver.log.read_text()[-2000:]}")
    return Run(folder / "runs" / "chaos")


def disturbed(folder: Path, trials: int, samples: int, kills: int, pause: float) -> tuple[Run, Counter[str]]:
    """The search under kills, as many as there are to be or as it lives to see; and how many of each."""
    driver = Driver(folder, trials, samples)
    run, done = Run(folder / "runs" / "chaos"), Counter[str]()
    order = [VICTIMS[index % len(VICTIMS)] for index in range(kills)]
    random.shuffle(order)
    until = time.monotonic() + LONGEST + 60 * kills
    try:
        while time.monotonic() < until:
            code = driver.ended()
            if code is not None:
                driver.clean()
                if code == 0 and not _open(run):
                    return run, done
                print(f"  the driver ended by itself with {code}; started again", flush=True)
                done["driver ended by itself"] += 1
                driver.start()
            before = len(run.results.rows())
            waited = time.monotonic()
            while order and driver.ended() is None and time.monotonic() - waited < 60:
                driver.look()
                if len(run.results.rows()) > before:  # it is under way again
                    time.sleep(random.uniform(0, pause))
                    if driver.kill(order[-1]):
                        done[order.pop()] += 1
                        if driver.ended() is not None:
                            driver.start()
                    break
                time.sleep(0.1)
            driver.look()
            time.sleep(0.1)
    finally:
        if driver.ended() is None:
            driver.kill("driver")
    raise SystemExit(f"the search under kills did not end:\n{driver.log.read_text()[-2000:]}")


def _open(run: Run) -> bool:
    return any(trial.state not in ENDED for trial in run.trials())


def told(run: Run) -> list[optuna.trial.FrozenTrial]:
    """The study's trials."""
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(run.study_path)))).trials


def compare(peace: Run, chaos: Run, trials: int) -> list[str]:
    """What differs, but for times, in words."""
    differences = []
    one, other = (
        {(row.trial, row.samples_seen, row.state): row for row in run.results.rows()} for run in (peace, chaos)
    )
    for name, more, less in (("missing", one, other), ("too many", other, one)):
        differences += [f"{name}: trial {key[0]} at {key[1]:,} {key[2]}" for key in sorted(more.keys() - less.keys())]
    for key in sorted(one.keys() & other.keys()):
        for field in ("score", "best_score", "metrics", "seed", "config", "verdict", "evidence", "cause"):
            if getattr(one[key], field) != getattr(other[key], field):
                mine, its = getattr(one[key], field), getattr(other[key], field)
                differences.append(f"trial {key[0]} at {key[1]:,}: {field} {mine} became {its}")
    ends = Counter(row.trial for row in chaos.results.rows() if row.state in ENDED)
    if ends != Counter(range(trials)):
        differences.append(f"endings: {dict(ends)}")
    first, second = told(peace), told(chaos)
    if [trial.number for trial in second] != list(range(trials)):
        differences.append(f"the study holds {[trial.number for trial in second]}")
    for before, after in zip(first, second, strict=False):
        for field in ("state", "params", "values", "intermediate_values"):
            if getattr(before, field) != getattr(after, field):
                mine, its = getattr(before, field), getattr(after, field)
                differences.append(f"study, trial {before.number}: {field} {mine} became {its}")
    return differences


def main() -> None:
    """Both searches, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--samples", type=int, default=20_000, help="of a trial")
    parser.add_argument("--pause", type=float, default=2.0, help="most seconds from a report to the kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as where:
        started = time.monotonic()
        for name in ("peace", "chaos"):
            (Path(where) / name).mkdir()
        peace = undisturbed(Path(where) / "peace", options.trials, options.samples)
        middle = time.monotonic()
        chaos, done = disturbed(Path(where) / "chaos", options.trials, options.samples, options.kills, options.pause)
        ended = time.monotonic()
        differences = compare(peace, chaos, options.trials)
        rows = len(chaos.results.rows())
    print("| search | trials | reports | kills | seconds |\n|---|---|---|---|---|")
    print(f"| in peace | {options.trials} | {rows} | 0 | {middle - started:.0f} |")
    kills = ", ".join(f"{count} {victim}" for victim, count in sorted(done.items())) or "0"
    print(f"| under kills | {options.trials} | {rows} | {kills} | {ended - middle:.0f} |")
    print("\n".join(differences) or "every trial, report and told value is the same")
    sys.exit(1 if differences or sum(done[victim] for victim in VICTIMS) < options.kills else 0)


if __name__ == "__main__":
    main()
