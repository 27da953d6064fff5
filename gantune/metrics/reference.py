"""The yardstick of a data set: a feature network and the real data's own statistics, made once and kept in one file.

Scores are comparable only under the same reference; its key stands beside every score.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.data.cache import cache_directory
from gantune.data.data_set import DataSet, quantise
from gantune.errors import CheckpointError, DataError
from gantune.metrics.coverage import NEIGHBOURS_COVERAGE, coverage, radii, recall, spread
from gantune.metrics.features import FeatureNet, train_features
from gantune.metrics.frechet import Gaussian, frechet_distance

FORMAT = 2
STATISTICS = 10_000  # reals behind the mean and the covariance
NEIGHBOURS = 1_000  # reals and fakes behind recall and coverage
LATENT_SEED = 20_140_610
CHUNK = 500

METRICS: dict[str, Callable[..., float]] = {
    "fid": frechet_distance,
    "recall": recall,
    "coverage": coverage,
    "diversity": spread,
    "pixel_diversity": spread,
}

Generate = Callable[..., Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What generated pictures are held against.

    `fid_name` carries the features' name; `noise_score` is the distance of uniform noise, a generator that has
    learned nothing; `feature_spread` and `pixel_spread` are the real data's own, the unit of diversity.
    """

    key: str
    fid_name: str
    accuracy: float
    net: FeatureNet
    gaussian: Gaussian
    neighbours: Tensor
    neighbour_radii: Tensor
    noise_score: float
    feature_spread: float
    pixel_spread: float

    def to(self, device: torch.device) -> "Reference":
        """The same reference with its network on a device; the statistics stay on the CPU."""
        self.net.to(device)
        return self

    def measure(self, pixels: Tensor) -> dict[str, float]:
        """Metrics of generated uint8 pictures [N, C, S, S] or points [N, D]. Ratios are 1 at the real data's own."""
        features = self.net.features(pixels).cpu()
        near = features[:NEIGHBOURS]
        return {
            self.fid_name: frechet_distance(self.gaussian, features),
            "recall": recall(self.neighbours, near),
            "coverage": coverage(self.neighbours, self.neighbour_radii, near),
            "diversity": spread(near) / self.feature_spread,
            "pixel_diversity": spread(pixels[:NEIGHBOURS]) / self.pixel_spread,
        }

    def evaluate(
        self, generate: Generate, z_dim: int, count: int, device: torch.device, class_counts: Sequence[int] = ()
    ) -> dict[str, float]:
        """Metrics of a generator from `count` samples of fixed latents; NaN distance where a sample is not finite."""
        samples = sample(generate, z_dim, count, device, class_counts=class_counts)
        return {self.fid_name: math.nan} if samples is None else self.measure(samples)


@torch.no_grad()
def sample(
    generate: Generate,
    z_dim: int,
    count: int,
    device: torch.device,
    seed: int = LATENT_SEED,
    class_counts: Sequence[int] = (),
) -> Tensor | None:
    """`count` samples on the CPU (uint8 pictures, or points) from latents that depend on the seed alone.

    class_counts: of the real data, where the generator takes labels; labels are then drawn in their proportions.
    Returns None where a sample is not finite.
    """
    draws = torch.Generator().manual_seed(seed)
    given = [torch.randn(count, z_dim, generator=draws)]
    if class_counts:
        shares = torch.tensor(class_counts, dtype=torch.float64)
        given.append(torch.multinomial(shares, count, replacement=True, generator=draws))
    chunks = []
    for chunk in zip(*(torch.split(values, CHUNK) for values in given), strict=True):
        samples = generate(*(values.to(device) for values in chunk))
        if not bool(torch.isfinite(samples).all()):
            return None
        chunks.append(quantise(samples).cpu())
    return torch.cat(chunks)


def prepare_reference(images: DataSet, report: Callable[[str], None] = lambda text: None) -> Path:
    """The file of a data set's reference, made in the cache on first use. Raises DataError where that fails."""
    key = reference_key(images)
    path = cache_directory() / "references" / f"{key}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _readable(path):
                _make(images, key, path, report)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written: {error}; set GANTUNE_CACHE to another folder") from error
    return path


def reference_key(images: DataSet) -> str:
    """Names pictures, form and protocol; references of equal keys are equal."""
    wish = json.dumps([FORMAT, images.key, STATISTICS, NEIGHBOURS])
    return hashlib.sha256(wish.encode()).hexdigest()[:16]


def check_same_data(images: DataSet, reference: Reference) -> None:
    """Raise DataError where a reference was made from other pictures, or from another version of its code."""
    if reference_key(images) != reference.key:
        raise DataError(
            f"{images.name}: is not the data that this run's scores are measured against; "
            "put the old data back, or start a new run with --name"
        )


def _readable(path: Path) -> bool:
    try:
        load_reference(path)
    except CheckpointError:
        return False
    return True


def _make(images: DataSet, key: str, path: Path, report: Callable[[str], None]) -> None:
    trained = train_features(images, report)
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(len(images.examples), generator=generator)[:STATISTICS].sort().values
    pixels = torch.from_numpy(images.examples[chosen.numpy()])
    pixels = pixels[torch.randperm(len(pixels), generator=generator)]
    features = trained.net.features(pixels)
    gaussian = Gaussian.fit(features)
    noise = _noise(pixels, generator)
    near = features[:NEIGHBOURS]
    if not (spread(near) > 0 and spread(pixels[:NEIGHBOURS]) > 0):
        raise DataError(f"{images.name}: its images are all the same; there is nothing to learn")
    tensors = {
        "mean": gaussian.mean,
        "factor": gaussian.factor,
        "neighbours": near,
        "neighbour_radii": radii(near, NEIGHBOURS_COVERAGE),
        **{f"net.{name}": value for name, value in trained.net.state_dict().items()},
    }
    meta = {
        "key": key,
        "fid_name": f"fid_{trained.task}",
        "accuracy": trained.accuracy,
        "dims": list(images.shape.dims),
        "classes": trained.net.head.out_features,
        "noise_score": frechet_distance(gaussian, trained.net.features(noise)),
        "feature_spread": spread(near),
        "pixel_spread": spread(pixels[:NEIGHBOURS]),
    }
    write_checkpoint(path, "reference", tensors, meta)


def _noise(examples: Tensor, generator: torch.Generator) -> Tensor:
    """A thousand samples of uniform noise over the range of the data, a generator that has learned nothing."""
    if examples.dtype == torch.uint8:
        return torch.randint(0, 256, (1000, *examples.shape[1:]), generator=generator, dtype=torch.uint8)
    low, high = examples.amin(0), examples.amax(0)
    return low + (high - low) * torch.rand(1000, *examples.shape[1:], generator=generator)


def load_reference(path: Path) -> Reference:
    """A reference from its file. Raises CheckpointError where the file is missing or damaged."""
    tensors, meta = read_checkpoint(path, "reference")
    try:
        net = FeatureNet(tuple(meta["dims"]), meta["classes"])
        net.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
        net.eval().requires_grad_(False)
        return Reference(
            key=meta["key"],
            fid_name=meta["fid_name"],
            accuracy=meta["accuracy"],
            net=net,
            gaussian=Gaussian(tensors["mean"], tensors["factor"]),
            neighbours=tensors["neighbours"],
            neighbour_radii=tensors["neighbour_radii"],
            noise_score=meta["noise_score"],
            feature_spread=meta["feature_spread"],
            pixel_spread=meta["pixel_spread"],
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: was made by another version of gantune: {error}") from error
