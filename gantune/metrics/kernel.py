"""Kernel distance: the maximum mean discrepancy under a cubic kernel, unbiased at any count of samples."""

import torch
from torch import Tensor

CHUNK = 2048


def kernel_distance(real: Tensor, fake: Tensor, real_mean: float | None = None) -> float:
    """KID between features [N, D] and [M, D], the unbiased estimator. Binkowski et al. 2018, section 4.

    real_mean: `self_similarity(real)`, where it is known. May lie below 0 for a perfect generator. All pairs count, so
    nothing is drawn and nothing depends on an order.
    """
    if not bool(torch.isfinite(fake).all()):
        return float("nan")
    own = self_similarity(real) if real_mean is None else real_mean
    across = float(_sum(real, fake)) / (len(real) * len(fake))
    return own + self_similarity(fake) - 2 * across


def self_similarity(features: Tensor) -> float:
    """Mean of the kernel over all pairs of two different rows of features [N, D]."""
    count = len(features)
    alone = sum(float(_kernel(chunk, chunk).diagonal().sum()) for chunk in torch.split(features, CHUNK))
    return (float(_sum(features, features)) - alone) / (count * (count - 1))


def _sum(ones: Tensor, others: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=ones.device)
    for one in torch.split(ones, CHUNK):
        for other in torch.split(others, CHUNK):
            total += _kernel(one, other).sum()
    return total


def _kernel(ones: Tensor, others: Tensor) -> Tensor:
    """(x y / D + 1)^3 of all pairs, float64."""
    return (ones.double() @ others.double().T / ones.shape[1] + 1) ** 3
