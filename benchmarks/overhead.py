"""What share of a search's time is spent on anything but training.

    python benchmarks/overhead.py [--trials 12] [--samples 30000]

Runs one search of search_spaces/dcgan.yaml in a temporary directory and compares, within that run, the seconds that
trials spent in training steps with the seconds that their CPUs were held. Prints one row for RESULTS.md.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from gantune.driver.screen import Screen
from gantune.driver.search import search
from gantune.run import Run
from gantune.space import load_space

SPACE = Path(__file__).parent.parent / "search_spaces" / "dcgan.yaml"


def main() -> None:
    """Run the search and print the shares."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--samples", type=int, default=30_000)
    chosen = parser.parse_args()
    space = load_space(SPACE, [f"budget.trials={chosen.trials}", f"budget.samples_per_trial={chosen.samples}"])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "overhead")
        started = time.monotonic()
        search(space, run, Screen())
        wall = time.monotonic() - started
        trials = run.trials()
        first = min(row.run_seconds for row in run.results.rows())
    cpus = os.cpu_count() or 1
    training = sum(trial.seconds for trial in trials)
    print("| trials | CPUs | wall s | first report s | training s | training share of CPU time |")
    print(f"| {len(trials)} | {cpus} | {wall:.0f} | {first:.0f} | {training:.0f} | {training / (wall * cpus):.0%} |")


if __name__ == "__main__":
    main()
