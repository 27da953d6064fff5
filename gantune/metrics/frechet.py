"""Fréchet distance between Gaussians fitted to features, in float64 and without a matrix square root."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A fitted normal distribution: mean [D], and a factor L [D, D] with L L^T the covariance, float64."""

    mean: Tensor
    factor: Tensor

    @staticmethod
    def fit(features: Tensor) -> "Gaussian":
        """Fit to features [N, D], N >= 2; N may be below D."""
        mean, covariance = moments(features)
        values, vectors = torch.linalg.eigh(covariance)
        return Gaussian(mean, vectors * values.clamp_min(0).sqrt())

    def to(self, device: torch.device) -> "Gaussian":
        """The same on a device."""
        return Gaussian(self.mean.to(device), self.factor.to(device))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and unbiased covariance [D, D] of features [N, D], float64, a chunk at a time."""
    chunks = torch.split(features, CHUNK)
    mean = sum((chunk.double().sum(0) for chunk in chunks[1:]), chunks[0].double().sum(0)) / len(features)
    scatter = features.new_zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for chunk in chunks:
        scatter += _gram(chunk.double() - mean)
    return mean, scatter / (len(features) - 1)


def _gram(centred: Tensor) -> Tensor:
    """X^T X. NumPy sees that both sides are one matrix and does half the work, on a CPU."""
    if centred.device.type != "cpu":
        return centred.T @ centred
    values = centred.numpy()
    return torch.from_numpy(np.dot(values.T, values))


def frechet_distance(real: Gaussian, fake: Tensor) -> float:
    """Squared Fréchet distance of a Gaussian fitted to `fake` [N, D] from `real`. Dowson & Landau 1982.

    |m_r - m_f|^2 + tr S_r + tr S_f - 2 tr (S_r S_f)^(1/2); the last trace is the sum of the roots of the
    eigenvalues of L^T S_f L, where S_r = L L^T. NaN where a feature is not finite. Depends on N: a perfect generator
    scores above 0, the more so the wider the features.
    """
    mean, covariance = moments(fake)
    if not bool(torch.isfinite(covariance).all()):
        return float("nan")
    inner = real.factor.T @ covariance @ real.factor
    roots = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    gap = (real.mean - mean).square().sum()
    distance = gap + real.factor.square().sum() + covariance.diagonal().sum() - 2 * roots
    return max(0.0, float(distance))


def frechet_distance_at_infinity(real: Gaussian, fake: Tensor) -> float:
    """The Fréchet distance that endless samples would show. Chong & Forsyth 2020, section 4.

    The line distance = a + b / N through the whole of `fake` [N, D] and the mean of its halves; a. May lie slightly
    below 0 for a perfect generator. Halves alone: where a part has fewer samples than features, a finer one bends off.
    """
    half = len(fake) // 2
    halves = [frechet_distance(real, part) for part in (fake[:half], fake[half:])]
    return 2 * frechet_distance(real, fake) - sum(halves) / 2


def effective_rank(features: Tensor) -> float:
    """In how many directions features [N, D] vary: exp of the entropy of their spectrum. Roy & Vetterli 2007.

    Reported over that of the real data.
    """
    values = torch.linalg.eigvalsh(moments(features)[1]).clamp_min(0)
    shares = values / values.sum().clamp_min(1e-300)
    return float(torch.special.entr(shares).sum().exp())
