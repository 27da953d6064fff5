"""Penalties on the discriminator's gradient with respect to what it sees.

Each is a module whose call gives one value a sample; it may carry state in buffers, which travels in checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from gantune.compatibility import Not, refuses
from gantune.config import Bounds, Works

EPSILON = 1e-12  # keeps the root's own gradient finite where the norm is 0

PenaltyWeight = Annotated[float, Bounds(above=0), Works("log 1..20")]
Gamma = Annotated[float, Bounds(above=0), Works("log 0.01..10")]
Every = Annotated[int, Bounds(low=1, high=64), Works("[1, 4, 8, 16]")]

Judge = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a discriminator step has at hand.

    real, fake: what the discriminator saw, [B, ...], detached from the generator. logits_real, logits_fake: [B].
    judge: the discriminator under this batch's labels, [B, ...] -> [B]. generator: the stream of random numbers.
    """

    judge: Judge
    real: Tensor
    fake: Tensor
    logits_real: Tensor
    logits_fake: Tensor
    generator: torch.Generator


class Penalty(nn.Module):
    """A term of the discriminator's loss: `weight` times the mean of `forward`, at every `every`-th of its steps.

    `slopes_of` names the inputs (real, fake) whose gradient is taken; their logits are computed with that in view.
    `exact` asks for logits in float32, as those of `judge` are, to compare the two.
    """

    slopes_of: frozenset[str] = frozenset()
    exact: bool = False

    def __init__(self, *, weight: float, every: int = 1) -> None:
        super().__init__()
        self.weight = weight
        self.every = every

    def forward(self, at: Judged) -> Tensor:
        """One value a sample, [B], >= 0."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The options, as modules show them."""
        return f"weight={self.weight:g}, every={self.every}"


def gradient_penalty(judge: Judge, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(|grad D(x)| - 1)^2 at points between real and fake, per sample.

    real, fake: [B, ...]. Returns [B], >= 0. One mixing weight and one norm per sample. Gulrajani et al. 2017, eq. 3.
    """
    between = torch.lerp(fake.detach(), real.detach(), _one_each(real, generator)).requires_grad_(True)
    return _unit_slope(judge(between), between)


def dragan_penalty(judge: Judge, real: Tensor, generator: torch.Generator) -> Tensor:
    """(|grad D(x)| - 1)^2 around the reals, at x + a * std / 2 * u with a and u from [0, 1), per sample.

    real: [B, ...]; std is that of the whole batch, a one number a sample, u one an element. Returns [B], >= 0.
    Kodali et al. 2017, section 2.3.
    """
    reals = real.detach()
    noise = torch.rand(reals.shape, generator=generator, device=generator.device).to(reals)
    around = torch.addcmul(reals, _one_each(reals, generator) * noise, 0.5 * reals.std())
    around.requires_grad_(True)
    return _unit_slope(judge(around), around)


def zero_centred(logits: Tensor, seen: Tensor) -> Tensor:
    """Half the squared norm of the gradient of the logits, per sample: R1 on reals, R2 on fakes.

    logits: [B], computed from seen [B, ...], which require a gradient. Returns [B], >= 0.
    Mescheder et al. 2018, eq. 9.
    """
    return 0.5 * _squared_slope(logits, seen)


def _one_each(samples: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(len(samples), generator=generator, device=generator.device).to(samples)
    return drawn.reshape(-1, *[1] * (samples.dim() - 1))  # [B, 1, ...]


def _unit_slope(logits: Tensor, points: Tensor) -> Tensor:
    return (_squared_slope(logits, points).add(EPSILON).sqrt() - 1).square()


def _squared_slope(logits: Tensor, seen: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(logits.sum(), seen, create_graph=True)
    return slope.flatten(1).square().sum(1)  # [B]


per_sample = refuses(
    {"architecture.norm_d": "batch"},
    why="the gradient penalty is per sample and batch norm mixes samples",
    fix="use norm_d: layer, instance, spectral or none",
)


@refuses(
    {"penalty_schedule": Not("constant"), "loss": Not("wgan_gp")},
    why="there is no penalty whose weight it could change",
    fix="use penalty_schedule: constant, or choose a penalty",
)
def no_penalty() -> None:
    """The discriminator's gradient is left alone."""


class _UnitSlopes(Penalty):
    def __init__(self, *, weight: PenaltyWeight = 10.0, every: Every = 1) -> None:
        super().__init__(weight=weight, every=every)


class _ZeroSlopes(Penalty):
    def __init__(self, *, weight: Gamma = 1.0, every: Every = 1) -> None:
        super().__init__(weight=weight, every=every)


@per_sample
class GradientPenalty(_UnitSlopes):
    """Slopes of 1 between real and fake. Gulrajani et al. 2017; `every`: Karras et al. 2020, appendix B."""

    def forward(self, at: Judged) -> Tensor:
        """See `gradient_penalty`."""
        return gradient_penalty(at.judge, at.real, at.fake, at.generator)


@per_sample
class Dragan(_UnitSlopes):
    """Slopes of 1 around the reals. Kodali et al. 2017; `every`: Karras et al. 2020, appendix B."""

    def forward(self, at: Judged) -> Tensor:
        """See `dragan_penalty`."""
        return dragan_penalty(at.judge, at.real, at.generator)


@per_sample
class R1(_ZeroSlopes):
    """Slopes of 0 on reals; `weight` is gamma. Mescheder et al. 2018; `every`: Karras et al. 2020, appendix B."""

    slopes_of = frozenset(["real"])

    def forward(self, at: Judged) -> Tensor:
        """See `zero_centred`."""
        return zero_centred(at.logits_real, at.real)


@per_sample
class R2(_ZeroSlopes):
    """Slopes of 0 on fakes; `weight` is gamma. Mescheder et al. 2018; `every`: Karras et al. 2020, appendix B."""

    slopes_of = frozenset(["fake"])

    def forward(self, at: Judged) -> Tensor:
        """See `zero_centred`."""
        return zero_centred(at.logits_fake, at.fake)


@per_sample
class R1R2(_ZeroSlopes):
    """R1 and R2 under one gamma, `weight`. Huang et al. 2024, R3GAN; `every`: Karras et al. 2020, appendix B."""

    slopes_of = frozenset(["real", "fake"])

    def forward(self, at: Judged) -> Tensor:
        """See `zero_centred`."""
        return zero_centred(at.logits_real, at.real) + zero_centred(at.logits_fake, at.fake)
