"""What limits a search on 1, 10, 100 and 1,000 GPUs: the driver's own work, measured, and the search, simulated.

    python benchmarks/scale.py                       # tables for docs/scale.md; some minutes on one core
    python benchmarks/scale.py --minutes 60 --reports 12

Measured here: a report's way through the driver's books onto the disk, a proposal's time by how many trials the study
knows, and a checkpoint's size and time. From these follow the share of its time that one driver is busy where every GPU
trains trials of so many minutes. Simulated: how long searches on the recorded learning curves take, in the time of one
full run, to come within 5% of the best recorded; their driver costs nothing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from contestants import Ours, Setting
from learning_curves import FAMILIES, load_curves
from search import NEAR, table
from simulation import simulate

from gantune.checkpoint import write_checkpoint
from gantune.data.data_set import open_data
from gantune.domains import FixedDraw
from gantune.driver.ledger import Ledger
from gantune.driver.study import Study
from gantune.progress import Progress
from gantune.run import Run
from gantune.space import SearchSpace, load_space
from gantune.trainer import GANTrainer

SPACE = Path(__file__).parent.parent / "search_spaces" / "dcgan.yaml"
GPUS = (1, 10, 100, 1000)
KNOWN = (100, 300, 1000, 3000)
METRICS = 24  # of a report, as many as a trial has


def clock(work: Callable[[], object], times: int) -> float:
    """The mean of its seconds: of proposals every second one is drawn at random, and costs nothing."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def report_seconds(space: SearchSpace, folder: Path, trials: int = 50) -> float:
    """Of a report in the driver: its row on the disk, the study told."""
    run = Run(folder / "reports")
    run.folder.mkdir()
    run.begin(space)
    ledger = Ledger(run, space, Study(run.study_path, space, 500.0))
    numbers = [proposal.number for proposal in iter(ledger.next, None)][:trials]
    metrics = {f"metric_{index}": 0.5 for index in range(METRICS)}
    seen = 0

    def report() -> None:
        nonlocal seen
        seen += 1
        for number in numbers:
            progress = Progress(samples_seen=seen, score=50.0 + number, best_score=50.0 + number, metrics=metrics)
            ledger.record(number, progress, stopped=False)

    return clock(report, 10) / len(numbers)


def proposal_seconds(space: SearchSpace, folder: Path, known: Sequence[int]) -> dict[int, float]:
    """Of a proposal of the default sampler, by how many trials have ended before."""
    journal, found, told = folder / "proposals.journal", {}, 0
    random = replace(space, search=replace(space.search, sampler="random"))
    for count in known:
        study = Study(journal, random, 500.0)
        while told < count:
            number = study.propose().number
            score = 100.0 - (number * 37 % 91)
            study.report(number, 1000, score)
            study.tell(number, "pruned", score, attributes={}, violations={})
            told += 1
        found[count] = clock(Study(journal, space, 500.0).propose, 20)
    return found


def checkpoint(space: SearchSpace, folder: Path) -> tuple[float, float]:
    """Megabytes and seconds of the baseline's `latest`, on this machine's disk."""
    config = space.draw(FixedDraw(space.baseline or {}), seed=0)
    trainer = GANTrainer(config, open_data(space.data).shape, torch.device("cpu"))
    tensors, path = trainer.state(), folder / "latest.safetensors"
    seconds = clock(lambda: write_checkpoint(path, "trial", tensors, {}), 10)
    return path.stat().st_size / 1e6, seconds


def simulated(workers: int, seeds: int) -> dict[str, tuple[float, float]]:
    """By family, medians: full runs' time until within 5% of the best, and full runs spent by then."""
    found = {}
    for family in FAMILIES:
        recorded, reached = table(family), []
        for seed in range(seeds):
            space = FAMILIES[family].load(None)
            space = replace(space, search=replace(space.search, sampler="random"))
            budget = float(max(64, 2 * workers))
            with tempfile.TemporaryDirectory() as folder:
                setting = Setting(space=space, seed=seed, budget=budget, steps=recorded.steps, folder=Path(folder))
                search = simulate(Ours(setting), recorded, workers, budget, (1 + NEAR) * recorded.best)
            reached.append(search.reaches((1 + NEAR) * recorded.best))
        spent = statistics.median(reached)
        found[family] = spent / workers, spent
    return found


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of one full trial")
    parser.add_argument("--reports", type=int, default=12, help="of one full trial")
    parser.add_argument("--seeds", type=int, default=10)
    chosen = parser.parse_args()
    space = load_space(SPACE, ["budget.trials=50"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report = report_seconds(space, folder)
        proposal = proposal_seconds(space, folder, KNOWN)
        megabytes, written = checkpoint(space, folder)
    print(
        f"a report takes the driver {report * 1e3:.1f} ms, a checkpoint has {megabytes:.1f} MB and takes "
        f"{written * 1e3:.0f} ms; a proposal takes "
        + ", ".join(f"{seconds * 1e3:.0f} ms with {known:,} trials known" for known, seconds in proposal.items())
    )
    share = 0.2  # of its budget that a trial trains, for most pause at the first rung
    print("\n| GPUs | reports a second | proposals a second | driver busy, 1,000 trials known | checkpoints MB/s |")
    print("|---|---|---|---|---|")
    for gpus in GPUS:
        reports = gpus * chosen.reports / (chosen.minutes * 60)
        proposals = gpus / (chosen.minutes * 60 * share)
        busy = reports * report + proposals * proposal[1000]
        print(f"| {gpus:,} | {reports:.3f} | {proposals:.3f} | {busy:.1%} | {reports * megabytes:.2f} |")
    curves = load_curves()
    families = [family for family in FAMILIES if any(curve.family == family for curve in curves)]
    print(f"\n| GPUs | {' | '.join(families)} |\n|---{'|---' * len(families)}|")
    for gpus in GPUS:
        found = simulated(gpus, chosen.seeds if gpus < 1000 else max(1, chosen.seeds // 5))
        cells = [f"{found[family][0]:.2f} ({found[family][1]:.0f} runs)" for family in families]
        print(f"| {gpus:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
