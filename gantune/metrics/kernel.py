"""Kernel distance: the maximum mean discrepancy under a cubic kernel, unbiased at any count of samples."""

import torch
from torch import Tensor

CHUNK = 1024


def kernel_distance(real: Tensor, fake: Tensor, real_mean: float | None = None) -> float:
    """KID between features [N, D] and [M, D], the unbiased estimator. Binkowski et al. 2018, section 4.

    real_mean: `self_similarity(real)`, where it is known. May lie below 0 for a perfect generator. All pairs count, so
    nothing is drawn and nothing depends on an order.
    """
    if not bool(torch.isfinite(fake).all()):
        return float("nan")
    own = self_similarity(real) if real_mean is None else real_mean
    across = _sum(real, fake) / (len(real) * len(fake))
    return own + self_similarity(fake) - 2 * across


def self_similarity(features: Tensor) -> float:
    """Mean of the kernel over all pairs of two different rows of features [N, D]."""
    chunks = torch.split(features.double(), CHUNK)
    total = 0.0
    for index, chunk in enumerate(chunks):
        own = _kernel(chunk, chunk)
        total += float(own.sum() - own.diagonal().sum())
        total += 2 * sum(float(_kernel(chunk, other).sum()) for other in chunks[:index])
    return total / (len(features) * (len(features) - 1))


def _sum(ones: Tensor, others: Tensor) -> float:
    parts = torch.split(others.double(), CHUNK)
    return sum(float(_kernel(one, other).sum()) for one in torch.split(ones.double(), CHUNK) for other in parts)


def _kernel(ones: Tensor, others: Tensor) -> Tensor:
    """(x y / D + 1)^3 of all pairs; in place, for it is the memory that takes the time."""
    values = (ones @ others.T).div_(ones.shape[1]).add_(1)
    return values.square().mul_(values)
