"""Schedules: from the share of the budget that is used up to a factor. Pure, so they have nothing to restore.

The factor scales both learning rates (`lr_schedule`), the penalty's weight (`penalty_schedule`), or the forgetting
1 - beta2 of the optimizers' second moment (`beta_schedule`: a final factor of 0.1 takes beta2 from 0.9 to 0.99).
"""

import math
from collections.abc import Callable
from typing import Annotated

from gantune.config import Bounds, Works

Schedule = Callable[[float], float]
Final = Annotated[float, Bounds(low=0, high=100), Works("[0, 0.1, 0.25]")]


def constant() -> Schedule:
    """Always 1."""
    return lambda share: 1.0


def linear(
    *, start: Annotated[float, Bounds(low=0, high=0.99), Works("[0, 0.5]")] = 0.0, final: Final = 0.0
) -> Schedule:
    """1 up to `start`, a share of the budget, then straight to `final` at its end. Miyato et al. 2018, section 4."""

    def factor(share: float) -> float:
        return 1.0 + (final - 1.0) * min(1.0, max(0.0, (share - start) / (1.0 - start)))

    return factor


def cosine(*, end: Annotated[float, Bounds(above=0, high=1), Works("[0.2, 1]")] = 1.0, final: Final = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` at `end`, a share of the budget; stays there. Loshchilov & Hutter 2017, eq. 5."""

    def factor(share: float) -> float:
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share / end)))

    return factor
