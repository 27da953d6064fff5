"""Adversarial losses on raw logits, per sample, in forms that stay exact at any logit.

Each pair is a discriminator's loss of (real, fake) logits and a generator's loss of fake logits, all [B] -> [B].
The functions named like the losses are the components that a configuration chooses: they add what belongs to the
game beside its losses and make a Game.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor
from torch.nn.functional import relu, softplus

from gantune.compatibility import Above, Not, refuses
from gantune.config import Bounds, Works
from gantune.penalties import GradientPenalty, Penalty, PenaltyWeight, per_sample

DSteps = Annotated[int, Bounds(low=1, high=100), Works("[1, 2, 5]")]
Smoothing = Annotated[float, Bounds(low=0, high=0.5), Works("0..0.2")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """What each network minimises, per sample, and how the discriminator is kept in bounds.

    d_loss: (real, fake) logits [B] -> [B]. g_loss: fake logits -> [B]; of a `paired` game (fake, real) logits -> [B].
    `clip` bounds every weight of the discriminator; 0 is off. `d_steps` discriminator steps go to one generator step.
    Where the logits of a `shift_invariant` game lie says nothing, only how far real and fake are apart.
    """

    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[..., Tensor]
    d_steps: int = 1
    clip: float = 0.0
    penalty: Penalty | None = None
    paired: bool = False
    shift_invariant: bool = False


def logistic_d(real: Tensor, fake: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the discriminator: -log s(real) - log(1 - s(fake)), >= 0. Goodfellow et al. 2014, eq. 1.

    With one-sided smoothing e the target of reals is 1 - e, which adds e * real. Salimans et al. 2016, section 3.4.
    """
    loss = softplus(-real) + softplus(fake)
    return loss + label_smoothing * real if label_smoothing else loss


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


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """D ranks each real above its own fake: softplus(fake - real), >= 0. Jolicoeur-Martineau 2019, RpGAN."""
    return softplus(fake - real)


def relativistic_g(fake: Tensor, real: Tensor) -> Tensor:
    """G ranks each fake above its own real: softplus(real - fake), >= 0. Jolicoeur-Martineau 2019, RpGAN."""
    return softplus(real - fake)


def minimax(*, label_smoothing: Smoothing = 0.0, d_steps: DSteps = 1) -> Game:
    """The original saturating game. Goodfellow et al. 2014, eq. 1."""
    return Game(d_loss=partial(logistic_d, label_smoothing=label_smoothing), g_loss=minimax_g, d_steps=d_steps)


def non_saturating(*, label_smoothing: Smoothing = 0.0, d_steps: DSteps = 1) -> Game:
    """The game most GANs play. Goodfellow et al. 2014, section 3."""
    return Game(d_loss=partial(logistic_d, label_smoothing=label_smoothing), g_loss=non_saturating_g, d_steps=d_steps)


def least_squares(*, d_steps: DSteps = 1) -> Game:
    """LSGAN: distances to the codes 0 and 1. Mao et al. 2017."""
    return Game(d_loss=least_squares_d, g_loss=least_squares_g, d_steps=d_steps)


def hinge(*, d_steps: DSteps = 1) -> Game:
    """The hinge game of SNGAN and BigGAN. Lim & Ye 2017; Miyato et al. 2018."""
    return Game(d_loss=hinge_d, g_loss=negated_g, d_steps=d_steps)


@refuses(
    {"clip": 0.0, "penalty": "none", "architecture.norm_d": Not("spectral")},
    why="nothing bounds the critic, so its loss has no minimum",
    fix="give it a clip such as 0.01, a penalty, or norm_d: spectral",
)
@refuses(
    {"clip": Above(0), "penalty": Not("none")},
    why="clip and penalty both bound the critic",
    fix="use clip: 0 or penalty: none",
)
@refuses(
    {"clip": Above(0), "architecture.norm_d": "spectral"},
    why="spectral norm takes the scale out of the weights that are clipped",
    fix="use clip: 0 or another norm_d",
)
def wasserstein(*, clip: Annotated[float, Bounds(low=0), Works("log 0.01..0.1")] = 0.0, d_steps: DSteps = 5) -> Game:
    """WGAN; the critic must be bounded, by `clip`, a penalty or spectral norm. Arjovsky et al. 2017."""
    return Game(d_loss=wasserstein_d, g_loss=negated_g, clip=clip, d_steps=d_steps, shift_invariant=True)


@refuses(
    {"penalty": Not("none")},
    why="it brings its own gradient penalty",
    fix="use penalty: none, or loss: wasserstein with that penalty",
)
@per_sample
def wgan_gp(*, gp_weight: PenaltyWeight = 10.0, d_steps: DSteps = 5) -> Game:
    """The Wasserstein game under a gradient penalty. Gulrajani et al. 2017."""
    return Game(
        d_loss=wasserstein_d,
        g_loss=negated_g,
        d_steps=d_steps,
        penalty=GradientPenalty(weight=gp_weight),
        shift_invariant=True,
    )


def relativistic() -> Game:
    """Each real against its own fake, one D step to a G step; wants penalty: r1_r2. Huang et al. 2024, R3GAN."""
    return Game(d_loss=relativistic_d, g_loss=relativistic_g, paired=True, shift_invariant=True)
