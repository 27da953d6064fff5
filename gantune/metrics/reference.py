"""The yardstick of a data set: features, and the real data's own statistics in them.

Scores are comparable only under the same reference; its key stands beside every score.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gantune.data.data_set import quantise
from gantune.metrics.classes import inception_score, modes
from gantune.metrics.costs import generator_parameters, seconds_per_image
from gantune.metrics.features import CHUNK, extract, synthetic_accuracy
from gantune.metrics.frechet import Gaussian, effective_rank, frechet_distance, frechet_distance_at_infinity
from gantune.metrics.kernel import kernel_distance
from gantune.metrics.neighbours import (
    NEIGHBOURS_RECALL,
    coverage,
    density,
    distances,
    memorisation,
    precision,
    radii,
    recall,
    spread,
)
from gantune.metrics.own import Seen, measure_own, try_own
from gantune.models.networks import Shape

KERNEL = 5_000  # reals behind the kernel distance
NEIGHBOURS = 1_000  # reals and fakes behind precision, recall, density and coverage
COMPARED = 250  # fakes held against every kept real, to see whether they are copies
LEARNED_FROM = 5_000  # samples that a classifier is trained on
LATENT_SEED = 20_140_610

METRICS: dict[str, Callable[..., Any]] = {
    "fid": frechet_distance,
    "fid_inf": frechet_distance_at_infinity,
    "kid": kernel_distance,
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
    "diversity": spread,
    "pixel_diversity": spread,
    "rank": effective_rank,
    "memorisation": memorisation,
    "modes": modes,
    "inception_score": inception_score,
    "synthetic_accuracy": synthetic_accuracy,
    "seconds_per_image": seconds_per_image,
    "generator_parameters": generator_parameters,
}
# The distances, from the reals' Gaussian, the reals behind the kernel with their own mean, and the fakes' features.
SCORES: dict[str, Callable[[Gaussian, Tensor, float, Tensor], float]] = {
    "fid": lambda gaussian, kernel, mean, fake: frechet_distance(gaussian, fake),
    "fid_inf": lambda gaussian, kernel, mean, fake: frechet_distance_at_infinity(gaussian, fake),
    "kid": lambda gaussian, kernel, mean, fake: kernel_distance(kernel, fake, mean),
}

MOVED = ("train", "held_nearest", "recall_radii", "coverage_radii", "class_shares")  # tensors that follow the device

Generate = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Samples:
    """Generated uint8 pictures [N, C, S, S] or points [N, D] on the CPU, and the labels [N] they were asked for."""

    examples: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What generated samples are held against.

    `wish` names the data, features and protocol that were asked for, `key` what they turned out to be as well: scores
    compare under equal keys. `label` names the features. `noise_scores` are those of uniform noise, a generator that
    has learned nothing; `feature_spread`, `pixel_spread` and `rank` are the real data's own, the units of diversity.
    """

    wish: str
    key: str
    label: str
    accuracy: float | None
    net: nn.Module
    shape: Shape
    device: torch.device
    gaussian: Gaussian
    train: Tensor
    known: float
    held: Tensor
    held_labels: Tensor
    held_nearest: Tensor
    recall_radii: Tensor
    coverage_radii: Tensor
    class_shares: Tensor
    kernel_mean: float
    noise_scores: dict[str, float]
    feature_spread: float
    pixel_spread: float
    rank: float

    @property
    def neighbours(self) -> Tensor:
        """Features of the reals behind precision, recall, density and coverage."""
        return self.train[:NEIGHBOURS]

    def named(self, metric: str) -> str:
        """A distance's full name: which features it saw is a part of it."""
        return f"{metric}_{self.label}"

    def score(self, metric: str, features: Tensor) -> float:
        """One of SCORES of fakes' features [N, D]."""
        return SCORES[metric](self.gaussian, self.train[:KERNEL], self.kernel_mean, features)

    def to(self, device: torch.device) -> "Reference":
        """The same reference on a device."""
        if device == self.device:
            return self
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in MOVED}
        return replace(self, device=device, net=self.net.to(device), gaussian=self.gaussian.to(device), **moved)

    def measure(self, samples: Samples, metrics: Sequence[str] = ("fid",), *, fully: bool = False) -> dict[str, float]:
        """Metrics of generated samples; ratios are 1 at the real data's own.

        metrics: the distances that are asked for. `fully` gives all of them, and what takes a while to measure.
        """
        return self._measure([samples], metrics, fully)

    def evaluate(
        self,
        generate: Generate,
        z_dim: int,
        count: int,
        *,
        class_counts: Sequence[int] = (),
        metrics: Sequence[str] = ("fid",),
        fully: bool = False,
        own: Sequence[str] = (),
    ) -> dict[str, float]:
        """Metrics of a generator from `count` samples of fixed latents; NaN distances where a sample is not finite."""
        draws = chunks(generate, z_dim, count, self.device, class_counts=class_counts)
        try:
            return self._measure(draws, metrics, fully, own)
        except FloatingPointError:
            return {self.named(metric): math.nan for metric in metrics}

    def _measure(
        self, draws: Iterable[Samples], metrics: Sequence[str], fully: bool, own: Sequence[str] = ()
    ) -> dict[str, float]:
        """Features are kept of all samples, the samples themselves only as far as they are looked at."""
        found, kept, seen = [], [], 0
        for draw in draws:
            found.append(extract(self.net, draw.examples, self.device))
            if seen < LEARNED_FROM:
                kept.append(draw)
            seen += len(draw.examples)
        features = torch.cat(found)
        examples = torch.cat([draw.examples for draw in kept])
        values = {self.named(name): self.score(name, features) for name in (SCORES if fully else metrics)}
        near = features[:NEIGHBOURS]
        across = distances(self.neighbours, near)
        values |= {
            "precision": precision(across, self.recall_radii),
            "recall": recall(across, radii(near, NEIGHBOURS_RECALL)),
            "density": density(across, self.coverage_radii),
            "coverage": coverage(across, self.coverage_radii),
            "diversity": spread(near) / self.feature_spread,
            "pixel_diversity": spread(examples[:NEIGHBOURS]) / self.pixel_spread,
            "rank": effective_rank(near) / self.rank,
            "memorisation": memorisation(self.train, self.held_nearest, near[:COMPARED], self.known),
        }
        classify = getattr(self.net, "classify", None)
        if classify is not None:
            logits = classify(features)
            values["modes"] = modes(logits, self.class_shares)
            if fully:
                values["inception_score"] = inception_score(logits)
        labels = [draw.labels for draw in kept if draw.labels is not None]
        if fully and labels and len(self.held_labels):
            values["synthetic_accuracy"] = synthetic_accuracy(
                examples, torch.cat(labels), self.shape, self.held, self.held_labels
            )
        if own:
            sight = Seen(examples, self.held, features.cpu(), self.train.cpu())
            values |= {name: measure_own(name, sight) for name in own}
        return values

    def try_own(self, names: Sequence[str]) -> None:
        """Raise PluginError where a metric of somebody's own does not even measure real examples."""
        if names:
            real = self.held[:NEIGHBOURS]
            features = extract(self.net, real, self.device).cpu()
            try_own(names, Seen(real, real, features, features))


@torch.no_grad()
def chunks(
    generate: Generate,
    z_dim: int,
    count: int,
    device: torch.device,
    seed: int = LATENT_SEED,
    class_counts: Sequence[int] = (),
) -> Iterator[Samples]:
    """`count` samples, some hundreds at a time, from latents that depend on the seed alone.

    class_counts: of the real data, where the generator takes labels; labels are then drawn in their proportions.
    Raises FloatingPointError where a sample is not finite.
    """
    draws = torch.Generator().manual_seed(seed)
    given = [torch.randn(count, z_dim, generator=draws)]
    if class_counts:
        shares = torch.tensor(class_counts, dtype=torch.float64)
        given.append(torch.multinomial(shares, count, replacement=True, generator=draws))
    for latents, *labels in zip(*(torch.split(values, CHUNK) for values in given), strict=True):
        samples = generate(*(values.to(device) for values in (latents, *labels)))
        if not bool(torch.isfinite(samples).all()):
            raise FloatingPointError("a sample is not finite")
        yield Samples(quantise(samples).cpu(), *labels)


def sample(
    generate: Generate,
    z_dim: int,
    count: int,
    device: torch.device,
    seed: int = LATENT_SEED,
    class_counts: Sequence[int] = (),
) -> Tensor | None:
    """What `chunks` gives as one tensor of `count` samples; None where one is not finite."""
    try:
        return torch.cat([draw.examples for draw in chunks(generate, z_dim, count, device, seed, class_counts)])
    except FloatingPointError:
        return None
