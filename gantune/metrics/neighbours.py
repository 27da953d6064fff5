"""What nearest neighbours of features tell: how much of the real data is reached, how true and how new samples are."""

import torch
from torch import Tensor

NEIGHBOURS_RECALL = 3
NEIGHBOURS_COVERAGE = 5
CHUNK = 1024


def distances(ones: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances [N, M] of features [N, D] and [M, D], float64: in float32 a copy would not be at 0."""
    return torch.cdist(ones.double(), others.double())


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each of features [N, D] to its k-th nearest neighbour, itself left out; [N]."""
    chunks = torch.split(features, CHUNK)
    nearest_few = [distances(chunk, features).topk(neighbours + 1, largest=False).values for chunk in chunks]
    return torch.cat([values[:, -1] for values in nearest_few])


def precision(across: Tensor, real_radii: Tensor) -> float:
    """Share of fakes within the k-th-neighbour ball of some real, k = 3. Kynkaanniemi et al. 2019, eq. 2.

    across: `distances` [N, M] from reals to fakes; real_radii: `radii` [N] of the reals.
    """
    return float((across <= real_radii[:, None]).any(0).double().mean())


def recall(across: Tensor, fake_radii: Tensor) -> float:
    """Share of reals within the k-th-neighbour ball of some fake, k = 3. Kynkaanniemi et al. 2019, eq. 2.

    across: `distances` [N, M] from reals to fakes; fake_radii: `radii` [M] of the fakes.
    """
    return float((across <= fake_radii).any(1).double().mean())


def density(across: Tensor, real_radii: Tensor, neighbours: int = NEIGHBOURS_COVERAGE) -> float:
    """How many real balls hold a fake, over k = 5; above 1 where fakes crowd. Naeem et al. 2020, eq. 3.

    across: `distances` [N, M] from reals to fakes; real_radii: `radii` [N] of the reals at the same k.
    """
    return float((across <= real_radii[:, None]).sum(0).double().mean()) / neighbours


def coverage(across: Tensor, real_radii: Tensor) -> float:
    """Share of reals whose own neighbour ball, k = 5, holds some fake. Naeem et al. 2020, eq. 4.

    across: `distances` [N, M] from reals to fakes; real_radii: `radii` [N] of the reals.
    """
    return float((across.min(1).values <= real_radii).double().mean())


def nearest(points: Tensor, others: Tensor) -> Tensor:
    """Distance of each of points [N, D] to the nearest of others [M, D]; [N], float64."""
    return torch.cat([distances(chunk, others).min(1).values for chunk in torch.split(points, CHUNK)])


def memorisation(train: Tensor, held_nearest: Tensor, fake: Tensor, known: float = 1.0) -> float:
    """How near fakes [M, D] lie to training features [N, D], over how near unseen reals do: 1 is new, 0 is copied.

    After the data-copying test of Meehan et al. 2020. held_nearest: `nearest` of held-out reals to the same training
    features. known: the share of the training data that `train` is; the medians move down with it, so that a copy of a
    part of the data still shows.
    """
    share = 0.5 * known
    least = torch.quantile(held_nearest, share).clamp_min(1e-12)
    return float(torch.quantile(nearest(fake, train), share) / least)


def spread(points: Tensor) -> float:
    """Mean distance between samples [N, ...], each with the next in order; reported over that of the real data.

    `diversity` is that of features, `pixel_diversity` that of pixels or coordinates.
    """
    flat = points.flatten(1).float()
    return float((flat - flat.roll(1, 0)).norm(dim=1).mean())
