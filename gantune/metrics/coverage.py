"""How much of the real data a generator reaches, from nearest neighbours of features, and how varied it is."""

import torch
from torch import Tensor

NEIGHBOURS_RECALL = 3
NEIGHBOURS_COVERAGE = 5


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each of features [N, D] to its k-th nearest neighbour, itself left out; [N]."""
    return torch.cdist(features, features).kthvalue(neighbours + 1, dim=1).values


def recall(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS_RECALL) -> float:
    """Share of reals [N, D] within the k-th-neighbour ball of some fake [M, D]. Kynkaanniemi et al. 2019, eq. 2."""
    inside = torch.cdist(real, fake) <= radii(fake, neighbours)  # [N, M]
    return float(inside.any(1).double().mean())


def coverage(real: Tensor, real_radii: Tensor, fake: Tensor) -> float:
    """Share of reals [N, D] whose own neighbour ball (radii [N]) holds some fake. Naeem et al. 2020, eq. 4."""
    return float((torch.cdist(real, fake).min(1).values <= real_radii).double().mean())


def spread(points: Tensor) -> float:
    """Mean distance between samples [N, ...], each with the next in order; reported over that of the real data.

    `diversity` is that of features, `pixel_diversity` that of pixels or coordinates.
    """
    flat = points.flatten(1).float()
    return float((flat - flat.roll(1, 0)).norm(dim=1).mean())
