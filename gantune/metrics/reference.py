"""The yardstick of a data set: features, and the real data's own statistics in them, made once and kept in one file.

Scores are comparable only under the same reference; its key stands beside every score.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from gantune import plugins
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.config import AUTO, Component, ObjectiveConfig
from gantune.data.cache import cache_directory
from gantune.data.data_set import DataSet, quantise
from gantune.errors import CheckpointError, DataError, PluginError
from gantune.metrics.classes import inception_score, modes
from gantune.metrics.features import CHUNK, extract, synthetic_accuracy
from gantune.metrics.frechet import Gaussian, effective_rank, frechet_distance, frechet_distance_at_infinity
from gantune.metrics.kernel import kernel_distance, self_similarity
from gantune.metrics.neighbours import (
    NEIGHBOURS_COVERAGE,
    NEIGHBOURS_RECALL,
    coverage,
    density,
    distances,
    memorisation,
    nearest,
    precision,
    radii,
    recall,
    spread,
)
from gantune.models.networks import Shape, shape_of

FORMAT = 3
STATISTICS = 50_000  # reals behind the mean and the covariance
KEPT_BYTES = 64 * 2**20  # of the reals' features, behind the nearest neighbours
KERNEL = 5_000  # reals behind the kernel distance
NEIGHBOURS = 1_000  # reals and fakes behind precision, recall, density and coverage
LEAST_PER_FEATURE = {"fid": 4, "fid_inf": 2, "kid": 0}  # samples, with fewer of which too little variety is rewarded
WIDEST = 8_192  # features: their covariance is half a gigabyte, and its eigenvalues take minutes
COMPARED = 250  # fakes held against every kept real, to see whether they are copies
LEARNED_FROM = 5_000  # samples that a classifier is trained on
PROBES = 8  # examples whose features tell whether a network is still the same
LATENT_SEED = 20_140_610

# Name, what it is, and which way is better.
METRICS: dict[str, tuple[Callable[..., Any], str]] = {
    "fid": (frechet_distance, "lower"),
    "fid_inf": (frechet_distance_at_infinity, "lower"),
    "kid": (kernel_distance, "lower"),
    "precision": (precision, "higher"),
    "recall": (recall, "higher"),
    "density": (density, "higher"),
    "coverage": (coverage, "higher"),
    "diversity": (spread, "higher"),
    "pixel_diversity": (spread, "higher"),
    "rank": (effective_rank, "higher"),
    "memorisation": (memorisation, "higher"),
    "modes": (modes, "higher"),
    "inception_score": (inception_score, "higher"),
    "synthetic_accuracy": (synthetic_accuracy, "higher"),
}
# The distances, from the reals' Gaussian, the reals behind the kernel with their own mean, and the fakes' features.
SCORES: dict[str, Callable[[Gaussian, Tensor, float, Tensor], float]] = {
    "fid": lambda gaussian, kernel, mean, fake: frechet_distance(gaussian, fake),
    "fid_inf": lambda gaussian, kernel, mean, fake: frechet_distance_at_infinity(gaussian, fake),
    "kid": lambda gaussian, kernel, mean, fake: kernel_distance(kernel, fake, mean),
}

# What a reference's file holds under the names of its fields: tensors that follow the device, tensors that stay on the
# CPU, where classifiers are trained, and plain values.
MOVED = ("train", "held_nearest", "recall_radii", "coverage_radii", "class_shares")
STAYING = ("held", "held_labels")
PLAIN = (
    "wish",
    "key",
    "label",
    "accuracy",
    "known",
    "kernel_mean",
    "noise_scores",
    "feature_spread",
    "pixel_spread",
    "rank",
)

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
    ) -> dict[str, float]:
        """Metrics of a generator from `count` samples of fixed latents; NaN distances where a sample is not finite."""
        draws = chunks(generate, z_dim, count, self.device, class_counts=class_counts)
        try:
            return self._measure(draws, metrics, fully)
        except FloatingPointError:
            return {self.named(metric): math.nan for metric in metrics}

    def _measure(self, draws: Iterable[Samples], metrics: Sequence[str], fully: bool) -> dict[str, float]:
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
        return values


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


def prepare_reference(
    images: DataSet,
    features: Component = AUTO,
    report: Callable[[str], None] = lambda text: None,
    device: torch.device | None = None,
) -> Path:
    """The file of a data set's reference, made in the cache on first use. Raises DataError where that fails."""
    wish = reference_wish(images, features)
    path = cache_directory() / "references" / f"{wish}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _readable(path):
                _make(images, features, wish, path, report, device or torch.device("cpu"))
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written: {error}; set GANTUNE_CACHE to another folder") from error
    return path


def reference_wish(images: DataSet, features: Component = AUTO) -> str:
    """Names examples, features and protocol."""
    counts = (STATISTICS, KEPT_BYTES, KERNEL, NEIGHBOURS)
    wish = json.dumps([FORMAT, images.key, features.name, features.options, counts])
    return hashlib.sha256(wish.encode()).hexdigest()[:16]


def check_reference(images: DataSet, objective: ObjectiveConfig, reference: Reference) -> None:
    """Raise DataError where a reference was made from other data or features, or does not tell what is asked for."""
    if reference_wish(images, objective.features) != reference.wish:
        raise DataError(
            f"{images.name}: is not the data that this run's scores are measured against; "
            "put the old data back, or start a new run with --name"
        )
    width = reference.gaussian.mean.numel()
    least = LEAST_PER_FEATURE[objective.metric] * width
    if objective.samples.report < least:
        raise DataError(
            f"objective.samples.report: {objective.metric} from {objective.samples.report} samples of {width} features "
            f"scores a generator of too little variety above a perfect one; ask for {least} samples or more, "
            "or use metric: kid"
        )
    if not hasattr(reference.net, "classify") and any(item.metric == "modes" for item in objective.constraints):
        raise DataError(f"features `{objective.features.name}` know no classes, so `modes` cannot be a constraint")


def _readable(path: Path) -> bool:
    try:
        load_reference(path)
    except CheckpointError:
        return False
    return True


def _build(features: Component, shape: Shape) -> nn.Module:
    factory = plugins.resolve("features", features.name)
    try:
        net = factory(shape, **dict(features.options))
        if not isinstance(net, nn.Module):
            raise DataError(f"features `{features.name}`: expected a torch.nn.Module, got a {type(net).__name__}")
    except (DataError, PluginError):
        raise
    except Exception as error:  # a user's function may fail in any way
        raise DataError(f"features `{features.name}`: cannot be built: {type(error).__name__}: {error}") from error
    return net.eval()


def _make(
    images: DataSet,
    features: Component,
    wish: str,
    path: Path,
    report: Callable[[str], None],
    device: torch.device,
) -> None:
    net = _build(features, images.shape)
    learn = getattr(net, "learn", None)
    accuracy = learn(images, report) if learn is not None else None
    net.to(device)
    generator = torch.Generator().manual_seed(1)
    rows = torch.from_numpy(images.train_rows)
    rows = rows[torch.randperm(len(rows), generator=generator)[:STATISTICS]]
    found = _features_of(net, images, features, rows, report, device)
    gaussian = Gaussian.fit(found.to(device)).to(torch.device("cpu"))
    kept = found[: max(KERNEL, KEPT_BYTES // (4 * found.shape[1]))].clone()
    held = torch.from_numpy(images.examples[images.held_rows])
    held_features = extract(net, held, device).cpu()
    near = torch.from_numpy(images.examples[rows[:NEIGHBOURS].numpy()])
    noise = extract(net, _noise(near, generator), device).cpu()
    if not spread(near) > 0:
        raise DataError(f"{images.name}: its images are all the same; there is nothing to learn")
    if not spread(kept[:NEIGHBOURS]) > 0:
        raise DataError(f"features `{features.name}`: are the same for every picture, and measure nothing")
    classify = getattr(net, "classify", None)
    shares = torch.zeros(0)
    if classify is not None:
        logits = classify(kept.to(device)).cpu()
        shares = torch.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(kept)
    kernel_mean = self_similarity(kept[:KERNEL])
    tensors = {
        "mean": gaussian.mean,
        "factor": gaussian.factor,
        "train": kept,
        "recall_radii": radii(kept[:NEIGHBOURS], NEIGHBOURS_RECALL),
        "coverage_radii": radii(kept[:NEIGHBOURS], NEIGHBOURS_COVERAGE),
        "held": held,
        "held_labels": torch.zeros(0) if images.labels is None else torch.from_numpy(images.labels[images.held_rows]),
        "held_nearest": nearest(held_features, kept),
        "class_shares": shares,
        "probes": near[:PROBES],
        "probe_features": found[:PROBES],
    }
    if learn is not None:
        tensors |= {f"net.{name}": value for name, value in net.state_dict().items()}
    meta = {
        "wish": wish,
        "key": hashlib.sha256(wish.encode() + found[:PROBES].numpy().tobytes()).hexdigest()[:16],
        "features": [features.name, features.options],
        "label": _label(net, features),
        "accuracy": accuracy,
        "dims": list(images.shape.dims),
        "classes": images.shape.classes,
        "known": len(kept) / len(images.train_rows),
        "kernel_mean": kernel_mean,
        "noise_scores": {name: score(gaussian, kept[:KERNEL], kernel_mean, noise) for name, score in SCORES.items()},
        "feature_spread": spread(kept[:NEIGHBOURS]),
        "pixel_spread": spread(near),
        "rank": effective_rank(kept[:NEIGHBOURS]),
    }
    write_checkpoint(path, "reference", tensors, meta)


def _label(net: nn.Module, features: Component) -> str:
    """How metrics name the features; none of a user's own passes for one of ours."""
    label = str(getattr(net, "label", features.name.rpartition(":")[2]))
    ours = features.name in plugins.BUILTIN["features"] and features.name != "torchscript"
    return label if ours or label not in plugins.BUILTIN["features"] else f"own_{label}"


def _features_of(
    net: nn.Module,
    images: DataSet,
    features: Component,
    rows: Tensor,
    report: Callable[[str], None],
    device: torch.device,
) -> Tensor:
    """Features [N, D] of examples, on the CPU. Raises DataError where the network does not keep its contract."""
    found: list[Tensor] = []
    for chunk in torch.split(rows, CHUNK):
        try:
            found.append(extract(net, torch.from_numpy(images.examples[chunk.numpy()]), device).cpu())
        except Exception as error:  # a user's network may fail in any way
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"features `{features.name}`: fail on {images.shape}: {reason}") from error
        if len(found[-1]) != len(chunk) or not bool(torch.isfinite(found[-1]).all()):
            raise DataError(
                f"features `{features.name}`: expected finite features [{len(chunk)}, D] of {len(chunk)} examples, "
                f"got {list(found[-1].shape)}"
            )
        if found[-1].shape[1] > WIDEST:
            raise DataError(
                f"features `{features.name}`: {found[-1].shape[1]} of them are too many for their covariance, at most "
                f"{WIDEST}; lower data.size, or use other features"
            )
        if len(found) % 10 == 0:
            report(f"measuring the real data ({features.name}): {len(found) * CHUNK:,} of {len(rows):,} examples")
    return torch.cat(found)


def _noise(examples: Tensor, generator: torch.Generator) -> Tensor:
    """A thousand samples of uniform noise over the range of the data, a generator that has learned nothing."""
    if examples.dtype == torch.uint8:
        return torch.randint(0, 256, (1000, *examples.shape[1:]), generator=generator, dtype=torch.uint8)
    low, high = examples.amin(0), examples.amax(0)
    return low + (high - low) * torch.rand(1000, *examples.shape[1:], generator=generator)


def load_reference(path: Path) -> Reference:
    """A reference from its file, on the CPU.

    Raises CheckpointError where the file is missing or damaged, or where its features have changed since.
    """
    tensors, meta = read_checkpoint(path, "reference")
    cpu = torch.device("cpu")
    try:
        name, options = meta["features"]
        shape = shape_of(meta["dims"], meta["classes"])
        net = _build(Component(name=name, options=tuple((key, value) for key, value in options)), shape)
        trained = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
        if trained:
            net.load_state_dict(trained)
        net.requires_grad_(False)
        now, then = extract(net, tensors["probes"], cpu), tensors["probe_features"]
        if now.shape != then.shape or not torch.allclose(now, then, rtol=1e-2, atol=1e-3):
            raise CheckpointError(f"{path}: the features `{name}` are no longer those that it was made with")
        fields: dict[str, Any] = {name: tensors[name] for name in (*MOVED, *STAYING)}
        fields |= {name: meta[name] for name in PLAIN}
        return Reference(
            net=net, shape=shape, device=cpu, gaussian=Gaussian(tensors["mean"], tensors["factor"]), **fields
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: was made by another version of gantune: {error}") from error
