"""What measuring costs: one Fréchet distance against torch-fidelity's, and the share of a trial that is not training.

    python benchmarks/metrics.py [--rounds 5] [--threads 1]

The distance is that of 10,000 samples with 1,280 features from statistics of the reals that are known, ours and
torch-fidelity's in turns on the same tensors; needs torch-fidelity. The trial is the baseline of
search_spaces/dcgan.yaml as it stands. Prints rows for RESULTS.md.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from gantune.data.data_set import open_data
from gantune.domains import FixedDraw
from gantune.metrics import reference as yardstick
from gantune.metrics.frechet import Gaussian, frechet_distance
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.space import load_space
from gantune.trial import train_trial

SPACE = Path(__file__).parent.parent / "search_spaces" / "dcgan.yaml"
SAMPLES, FEATURES = 10_000, 1_280


def features(seed: int) -> Tensor:
    """Non-negative features [10,000, 1,280] whose spectrum falls off as that of a trained network does."""
    draws = torch.Generator().manual_seed(seed)
    mixing = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(0))
    sizes = torch.arange(1, FEATURES + 1) ** -0.5
    return (torch.randn(SAMPLES, FEATURES, generator=draws) * sizes @ mixing).relu()


def distance(rounds: int) -> None:
    """Print seconds of both, and their ratio."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    real, fake = features(1), features(2)
    known, theirs = Gaussian.fit(real), fid_features_to_statistics(real)

    def of_torch_fidelity() -> float:
        found = fid_statistics_to_metric(theirs, fid_features_to_statistics(fake), verbose=False)
        return float(found[KEY_METRIC_FID])

    contestants: dict[str, Callable[[], float]] = {
        "ours": lambda: frechet_distance(known, fake),
        "torch-fidelity": of_torch_fidelity,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    values = {name: run() for name, run in contestants.items()}  # once unmeasured
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.monotonic()
            run()
            seconds[name].append(time.monotonic() - started)
    ratios = sorted(theirs / ours for ours, theirs in zip(seconds["ours"], seconds["torch-fidelity"], strict=True))
    print("| distance | value | seconds |")
    for name in contestants:
        print(f"| {name} | {values[name]:.6g} | {statistics.median(seconds[name]):.2f} |")
    print(f"ratio: {statistics.median(ratios):.1f} ({ratios[0]:.1f}..{ratios[-1]:.1f})")


@contextmanager
def timed(spent: list[float]) -> Iterator[None]:
    """Every evaluation's seconds, while it lasts."""
    plain = Reference.evaluate

    def evaluate(self: Reference, *arguments: object, **named: object) -> dict[str, float]:
        started = time.monotonic()
        found = plain(self, *arguments, **named)  # type: ignore[arg-type]
        spent.append(time.monotonic() - started)
        return found

    yardstick.Reference.evaluate = evaluate  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        yardstick.Reference.evaluate = plain  # type: ignore[method-assign]


def share() -> None:
    """Print how the time of one default trial divides."""
    space = load_space(SPACE)
    assert space.baseline is not None
    config = space.draw(FixedDraw(space.baseline), seed=0)
    images = open_data(config.data)
    reference = load_reference(prepare_reference(images, config.objective.features))
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as folder, timed(spent):
        started = time.monotonic()
        *_, last = train_trial(config, images, reference, Path(folder), torch.device("cpu"))
        wall = time.monotonic() - started
    reports, final = sum(spent[:-1]), spent[-1]
    rest = wall - last.seconds - sum(spent)
    print("| wall s | training | reports | final evaluation | checkpoints and set-up |")
    print(
        f"| {wall:.1f} | {last.seconds / wall:.1%} | {reports / wall:.1%} | {final / wall:.1%} | {rest / wall:.1%} |"
        f"  ({len(spent) - 1} reports)"
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    distance(chosen.rounds)
    share()


if __name__ == "__main__":
    main()
