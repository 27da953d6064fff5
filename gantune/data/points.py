"""Toy distributions of points in the plane, whose modes can be counted by eye. Drawn once from a fixed seed."""

import numpy as np
import numpy.typing as npt

from gantune.config import DataConfig
from gantune.data.data_set import DataSet

COUNT = 20_000
SEED = 20_160_611


def gaussians8(config: DataConfig) -> DataSet:
    """Eight Gaussians of deviation 0.02 on a circle of radius 1, by class. Metz et al. 2017, Unrolled GAN, section 3.1.

    Scaled to unit deviation a coordinate, as networks like their inputs.
    """
    angles = np.arange(8) * np.pi / 4
    return _mixture("gaussians8", np.stack([np.cos(angles), np.sin(angles)], 1), 0.02)


def gaussians25(config: DataConfig) -> DataSet:
    """A grid of 5 x 5 Gaussians, 2 apart and of deviation 0.05, by class. Dumoulin et al. 2017, section 4.3."""
    ticks = np.arange(-4.0, 5.0, 2.0)
    return _mixture("gaussians25", np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2), 0.05)


def swiss_roll(config: DataConfig) -> DataSet:
    """A spiral of one and a half turns with noise; its classes are ten stretches along it. Gulrajani et al. 2017."""
    generator = np.random.default_rng(SEED)
    along = generator.random(COUNT)
    angle = 1.5 * np.pi * (1 + 2 * along)
    points = np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1)
    points += generator.normal(0.0, 0.25, points.shape)
    return _points("swiss_roll", points, (along * 10).astype(np.int64), 10)


def _mixture(name: str, centres: npt.NDArray[np.float64], deviation: float) -> DataSet:
    generator = np.random.default_rng(SEED)
    labels = generator.integers(len(centres), size=COUNT)
    points = centres[labels] + generator.normal(0.0, deviation, (COUNT, 2))
    return _points(name, points, labels.astype(np.int64), len(centres))


def _points(name: str, points: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: int) -> DataSet:
    points = points - points.mean(0)
    points = points / points.std()
    return DataSet(
        name=name,
        key=f"{name}-1",
        examples=points.astype(np.float32),
        labels=labels,
        class_names=tuple(str(index) for index in range(classes)),
    )
