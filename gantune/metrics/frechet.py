"""Fréchet distance between Gaussians fitted to features, in float64 and without a matrix square root."""

from dataclasses import dataclass

import torch
from torch import Tensor


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


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and unbiased covariance [D, D] of features [N, D], float64."""
    values = features.double()
    mean = values.mean(0)
    centred = values - mean
    return mean, centred.T @ centred / (len(values) - 1)


def frechet_distance(real: Gaussian, fake: Tensor) -> float:
    """Squared Fréchet distance of a Gaussian fitted to `fake` [N, D] from `real`. Dowson & Landau 1982.

    |m_r - m_f|^2 + tr S_r + tr S_f - 2 tr (S_r S_f)^(1/2); the last trace is the sum of the roots of the
    eigenvalues of L^T S_f L, where S_r = L L^T. NaN where a feature is not finite.
    """
    mean, covariance = moments(fake)
    if not bool(torch.isfinite(covariance).all()):
        return float("nan")
    inner = real.factor.T @ covariance @ real.factor
    roots = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    gap = (real.mean - mean).square().sum()
    distance = gap + real.factor.square().sum() + covariance.diagonal().sum() - 2 * roots
    return max(0.0, float(distance))
