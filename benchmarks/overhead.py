"""What a search costs beside its trials, for many short ones: Ray Tune with OptunaSearch as shipped, and gantune.

    python benchmarks/overhead.py                # 200 trials of about 0.1 s on 2 cores; Tune's fresh actors on 40
    python benchmarks/overhead.py --memory       # the driver's resident memory over 2,000 trials
    python benchmarks/overhead.py --share        # what share of a real search's time is training

All contestants draw from one space, with TPE and ASHA, and train with the same `train_trial`, which measures and writes
checkpoints, too; they differ in who proposes, starts, stops and keeps the books. A clock around `train_trial` gives the
trials' own seconds, so that whoever stops more trials has less to do, and is not held to be faster for it. The ideal
is a half of these on 2 cores; all else is overhead: setting up, proposing, waiting. `first` is what passes before the
first report, mostly Ray's start, which is told apart. Workers that train at once slow each other, and the ideal with
them, which flatters whoever keeps both cores busy; so the last columns tell what a trial takes with its training. Each
contestant is a process of its own with a Ray of its own.
Prints rows for RESULTS.md.
"""

import argparse
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import torch
from ray import tune

from gantune.data.data_set import open_data
from gantune.domains import FixedDraw
from gantune.driver import tune as gantune_tune
from gantune.driver.books import Books
from gantune.driver.connection import connected
from gantune.driver.screen import Screen
from gantune.driver.search import search
from gantune.driver.trainable import GanTrainable
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.progress import Progress
from gantune.results import Row
from gantune.run import Run
from gantune.space import SearchSpace, load_space
from gantune.trial import train_trial

CORES = 2
DCGAN = Path(__file__).parent.parent / "search_spaces" / "dcgan.yaml"
SPACE = """
version: 1
name: overhead
data: {dataset: digits, size: 8}
objective: {metric: kid, samples: {report: 256, final: 256}, reports: 2}
budget: {trials: 200, samples_per_trial: 1600}
search: {sampler: tpe, scheduler: {asha: {first_rung: 0.5, reduction: 2}}}
collapse: {enabled: false}
space:
  architecture: {mlp: {hidden: [16, 32, 64], depth: int 1..3}}
  loss: [non_saturating, hinge, least_squares]
  optimizer: {adam: {beta1: 0..0.9}}
  lr_g: log 1e-4..1e-2
  lr_d_ratio: log 0.25..8
  batch_size: [32, 64]
"""


def clocked(*arguments: Any, **options: Any) -> Iterator[Progress]:
    """`train_trial`, with its seconds so far and the time of its first report in a file."""
    own, first, trial, folder = 0.0, 0.0, train_trial(*arguments, **options), arguments[3]
    while True:
        started = time.monotonic()
        progress = next(trial, None)
        own += time.monotonic() - started
        if progress is None:
            return
        first = first or time.time()
        (folder / "seconds.json").write_text(json.dumps([own, first]))
        yield progress


class Clocked(GanTrainable):  # type: ignore[misc]
    """gantune's own shell, with the clock."""

    def _begin(self, config: dict[str, Any]) -> None:
        from gantune.driver import trainable

        trainable.train_trial = clocked  # type: ignore[assignment]
        super()._begin(config)


class Bare(tune.Trainable):  # type: ignore[misc]
    """What a script for Tune looks like: data are opened when an actor is set up, a trial begins with its config."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called in a new actor."""
        torch.set_num_threads(1)
        self.space = load_space(config["space"])
        self.images = open_data(self.space.data)
        self.measure = load_reference(Path(config["reference"]))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called in an actor that is used again."""
        trial = self.space.draw(FixedDraw(new_config), seed=0)
        folder = Path(new_config["out"]) / self.trial_id
        folder.mkdir(parents=True, exist_ok=True)
        self.trial = clocked(trial, self.images, self.measure, folder, torch.device("cpu"))
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report."""
        progress = next(self.trial)
        return {"score": progress.score, "samples_seen": progress.samples_seen, "done": progress.state != "running"}


def drawn(space: SearchSpace, paths: dict[str, str], trial: optuna.Trial) -> dict[str, str]:
    """Draw a configuration as Optuna's define-by-run does; what else a trial needs stays the same."""
    space.draw(trial, seed=0)
    return paths


def bare(folder: Path, trials: int, *, reused: bool) -> None:
    """The script, with what Tune and Optuna ship."""
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = load_space(folder / "space.yaml")
    reference = prepare_reference(open_data(space.data), space.objective.features, print, torch.device("cpu"))

    paths = {"space": str(folder / "space.yaml"), "reference": str(reference), "out": str(folder)}
    with connected(folder / "ray.log", None):
        tuner = tune.Tuner(
            tune.with_resources(Bare, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                metric="score",
                mode="min",
                num_samples=trials,
                search_alg=OptunaSearch(functools.partial(drawn, space, paths), metric="score", mode="min", seed=0),
                scheduler=ASHAScheduler(time_attr="samples_seen", max_t=1600, grace_period=800, reduction_factor=2),
                reuse_actors=reused,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder / "tune"),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial writes its own
                verbose=0,
            ),
        )
        tuner.fit()


class Weighing(Screen):
    """Notes the driver's resident memory as trials end."""

    def __init__(self, every: int) -> None:
        super().__init__(io.StringIO())
        self._every = every
        self.megabytes: dict[int, float] = {}

    def ended(self, row: Row, books: Books) -> None:
        """A trial has ended."""
        super().ended(row, books)
        count = sum(books.ended.values()) + books.resting
        if count % self._every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.megabytes[count] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def ours(folder: Path, trials: int) -> Weighing:
    """The same search by gantune."""
    gantune_tune.GanTrainable = Clocked
    screen = Weighing(max(1, trials // 10))
    search(load_space(folder / "space.yaml", [f"budget.trials={trials}"]), Run(folder / "run"), screen)
    return screen


def contest(name: str, trials: int) -> dict[str, float]:
    """One contestant's wall seconds, its trials' own, and those before its first report; called in a fresh process."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "space.yaml").write_text(SPACE)
        space = load_space(folder / "space.yaml")
        prepare_reference(open_data(space.data), space.objective.features, lambda text: None, torch.device("cpu"))
        began, started = time.time(), time.monotonic()
        weights: dict[int, float] = {}
        if name == "gantune":
            weights = ours(folder, trials).megabytes
        else:
            bare(folder, trials, reused=name == "tune, reused actors")
        wall = time.monotonic() - started
        clocks = [json.loads(path.read_text()) for path in folder.glob("**/seconds.json")]
    found = {
        "trials": len(clocks),
        "wall": wall,
        "own": sum(own for own, _ in clocks),
        "first": min(first for _, first in clocks) - began,
    }
    return {**found, "weights": weights}  # type: ignore[dict-item]


def apart(name: str, trials: int) -> dict[str, Any]:
    """`contest` in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--trials", str(trials)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def side_by_side(trials: int, fresh: int) -> None:
    """A row for each contestant; milliseconds a trial, and their ratios, are of overhead after the first report."""
    print(
        "| contestant | trials | wall s | own s | ideal s | overhead s | first s | ms a trial | over those above "
        "| with training | over those above |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows = {}
    for name, count in [("tune, fresh actors", fresh), ("tune, reused actors", trials), ("gantune", trials)]:
        found = rows[name] = apart(name, count)
        ideal = found["own"] / CORES
        found["per"] = (found["wall"] - found["first"] - ideal) / found["trials"] * 1000
        found["whole"] = (found["wall"] - found["first"]) / found["trials"] * 1000
        per, whole = (
            " / ".join(f"{found[key] / rows[other][key]:.2f}" for other in rows if other != name)
            for key in ("per", "whole")
        )
        print(
            f"| {name} | {found['trials']} | {found['wall']:.0f} | {found['own']:.1f} | {ideal:.1f} "
            f"| {found['wall'] - ideal:.1f} | {found['first']:.1f} | {found['per']:.0f} | {per} "
            f"| {found['whole']:.0f} | {whole} |",
            flush=True,
        )


def memory(trials: int) -> None:
    """The driver's memory as trials end."""
    weights = apart("gantune", trials)["weights"]
    print("| trials | resident MB |\n|---|---|")
    for count, megabytes in weights.items():
        print(f"| {count} | {megabytes:.0f} |")


def share(trials: int, samples: int) -> None:
    """What share of a real search's CPU time is training."""
    space = load_space(DCGAN, [f"budget.trials={trials}", f"budget.samples_per_trial={samples}"])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "overhead")
        started = time.monotonic()
        search(space, run, Screen())
        wall = time.monotonic() - started
        training = sum(trial.seconds for trial in run.trials())
    cpus = os.cpu_count() or 1
    print("| trials | CPUs | wall s | training s | training share of CPU time |")
    print(f"| {trials} | {cpus} | {wall:.0f} | {training:.0f} | {training / (wall * cpus):.0%} |")


def main() -> None:
    """Run what is asked for and print rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int)
    parser.add_argument("--fresh", type=int, default=40, help="trials of Tune with fresh actors, which is slow")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--samples", type=int, default=30_000, help="a trial's, for --share")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(contest(chosen.one, chosen.trials)))
    elif chosen.memory:
        memory(chosen.trials or 2_000)
    elif chosen.share:
        share(chosen.trials or 12, chosen.samples)
    else:
        side_by_side(chosen.trials or 200, chosen.fresh)


if __name__ == "__main__":
    main()
