"""What a generator costs whoever uses it."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

BATCH = 64
WARM_UP = 2  # batches that are not timed: kernels are chosen, memory is set aside
TIMED = 7


@torch.no_grad()
def seconds_per_image(generate: Callable[..., Tensor], z_dim: int, device: torch.device, *, labelled: bool) -> float:
    """`seconds_per_image`: what sampling one picture takes on the trial's device, another number at each measurement.

    It is the median of seven batches of 64, after two that are not timed. labelled: whether `generate` takes labels.
    """
    given = [torch.randn(BATCH, z_dim, generator=torch.Generator().manual_seed(0)).to(device)]
    if labelled:
        given.append(torch.zeros(BATCH, dtype=torch.long, device=device))
    taken = []
    for _ in range(WARM_UP + TIMED):
        _wait(device)
        started = time.perf_counter()
        generate(*given)
        _wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[WARM_UP:]) / BATCH


def _wait(device: torch.device) -> None:
    """A GPU is given its work ahead of time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def generator_parameters(generator: nn.Module) -> float:
    """`generator_parameters`: how many weights a generator has."""
    return float(sum(weights.numel() for weights in generator.parameters()))
