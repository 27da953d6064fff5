"""Adversarial losses on raw logits, per sample, in forms that stay exact at any logit.

Each pair is a discriminator's loss of (real, fake) logits and a generator's loss of fake logits, all [B] -> [B].
The functions named like the losses are the components that a configuration chooses: they add the weights of the
terms that bound the discriminator and the number of its steps, and make a Game.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor
from torch.nn.functional import relu, softplus

from gantune.config import Bounds, Weight

DSteps = Annotated[int, Bounds(low=1, high=100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """What each network minimises: two losses, penalty weights (0 is off), a weight clip (0 is off), D steps."""

    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[[Tensor], Tensor]
    gp_weight: float
    r1: float
    clip: float
    d_steps: int


def logistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of the discriminator: -log s(real) - log(1 - s(fake)), >= 0. Goodfellow et al. 2014, eq. 1."""
    return softplus(-real) + softplus(fake)


def minimax_g(fake: Tensor) -> Tensor:
    """The generator minimises log(1 - s(fake)), <= 0; it saturates where D wins. Goodfellow et al. 2014, eq. 1."""
    return -softplus(fake)


def non_saturating_g(fake: Tensor) -> Tensor:
    """The generator maximises log s(fake). Goodfellow et al. 2014, section 3."""
    return softplus(-fake)


def least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    """Squared distance to the codes 1 (real) and 0 (fake), halved, >= 0. Mao et al. 2017, eq. 9."""
    return 0.5 * (real - 1).square() + 0.5 * fake.square()


def least_squares_g(fake: Tensor) -> Tensor:
    """Squared distance of fakes to the code 1, halved, >= 0. Mao et al. 2017, eq. 9."""
    return 0.5 * (fake - 1).square()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """Margins of 1 on both sides, >= 0. Lim & Ye 2017, eq. 3."""
    return relu(1 - real) + relu(1 + fake)


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's negated gap, unbounded. Arjovsky et al. 2017, eq. 2."""
    return fake - real


def negated_g(fake: Tensor) -> Tensor:
    """The generator raises its logits, unbounded. Arjovsky et al. 2017, eq. 3; Lim & Ye 2017, eq. 4."""
    return -fake


def minimax(*, r1: Weight = 0.0, gp_weight: Weight = 0.0, d_steps: DSteps = 1) -> Game:
    """The original saturating game. Goodfellow et al. 2014."""
    return Game(d_loss=logistic_d, g_loss=minimax_g, gp_weight=gp_weight, r1=r1, clip=0.0, d_steps=d_steps)


def non_saturating(*, r1: Weight = 0.0, gp_weight: Weight = 0.0, d_steps: DSteps = 1) -> Game:
    """The game most GANs play. Goodfellow et al. 2014, section 3."""
    return Game(d_loss=logistic_d, g_loss=non_saturating_g, gp_weight=gp_weight, r1=r1, clip=0.0, d_steps=d_steps)


def least_squares(*, r1: Weight = 0.0, gp_weight: Weight = 0.0, d_steps: DSteps = 1) -> Game:
    """LSGAN. Mao et al. 2017."""
    return Game(d_loss=least_squares_d, g_loss=least_squares_g, gp_weight=gp_weight, r1=r1, clip=0.0, d_steps=d_steps)


def hinge(*, r1: Weight = 0.0, gp_weight: Weight = 0.0, d_steps: DSteps = 1) -> Game:
    """The hinge game of SNGAN and BigGAN. Lim & Ye 2017."""
    return Game(d_loss=hinge_d, g_loss=negated_g, gp_weight=gp_weight, r1=r1, clip=0.0, d_steps=d_steps)


def wasserstein(*, gp_weight: Weight = 0.0, r1: Weight = 0.0, clip: Weight = 0.0, d_steps: DSteps = 5) -> Game:
    """WGAN; the critic must be bounded, by `clip`, a penalty or spectral norm. Arjovsky et al. 2017."""
    return Game(d_loss=wasserstein_d, g_loss=negated_g, gp_weight=gp_weight, r1=r1, clip=clip, d_steps=d_steps)


def wgan_gp(*, gp_weight: Weight = 10.0, d_steps: DSteps = 5) -> Game:
    """The Wasserstein game under a gradient penalty. Gulrajani et al. 2017."""
    return wasserstein(gp_weight=gp_weight, d_steps=d_steps)
