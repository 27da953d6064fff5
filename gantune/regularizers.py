"""Terms that regularise the discriminator by its logits rather than by its gradient."""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import relu

from gantune.augmentation import POINTS, flip, translate
from gantune.compatibility import refuses
from gantune.config import Bounds, Works
from gantune.penalties import Every, Judged, Penalty, PenaltyWeight


def lecam_term(real: Tensor, fake: Tensor, anchor_real: Tensor, anchor_fake: Tensor) -> Tensor:
    """relu(real - anchor_fake)^2 + relu(anchor_real - fake)^2, per sample.

    real, fake: logits [B]; the anchors are moving averages of the fakes' and the reals' logits, scalars.
    Returns [B], >= 0. Tseng et al. 2021, eq. 5, one-sided as its authors train it.
    """
    return relu(real - anchor_fake).square() + relu(anchor_real - fake).square()


def no_regularizer() -> None:
    """The discriminator's logits are left alone."""


class LeCam(Penalty):
    """Logits stay near the moving average of the other side's. Tseng et al. 2021."""

    real: Tensor
    fake: Tensor
    share: Tensor

    def __init__(
        self,
        *,
        weight: Annotated[float, Bounds(above=0), Works("log 0.01..1")] = 0.3,
        decay: Annotated[float, Bounds(low=0, high=0.99999), Works("[0.9, 0.99, 0.999]")] = 0.99,
    ) -> None:
        super().__init__(weight=weight)
        self.decay = decay
        for name in ("real", "fake", "share"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, at: Judged) -> Tensor:
        """See `lecam_term`; moves the averages first, which are freed of their start at 0 as Adam's are."""
        with torch.no_grad():
            self.real.lerp_(at.logits_real.mean(), 1 - self.decay)
            self.fake.lerp_(at.logits_fake.mean(), 1 - self.decay)
            self.share.mul_(self.decay).add_(1 - self.decay)
            anchor_real, anchor_fake = self.real / self.share, self.fake / self.share
        return lecam_term(at.logits_real, at.logits_fake, anchor_real, anchor_fake)

    def extra_repr(self) -> str:
        """The options, as modules show them."""
        return f"{super().extra_repr()}, decay={self.decay:g}"


@refuses({"data.dataset": POINTS}, why="it shifts pictures, and points have no neighbours", fix="use regularizer: none")
class Consistency(Penalty):
    """Equal logits for a real and its shifted (and flipped) copy. Zhang et al. 2020, CR-GAN, eq. 1."""

    exact = True

    def __init__(
        self,
        *,
        weight: PenaltyWeight = 10.0,
        every: Every = 1,
        shift: Annotated[float, Bounds(above=0, high=0.5), Works("[0.125]")] = 0.125,
        mirror: bool = False,
    ) -> None:
        super().__init__(weight=weight, every=every)
        self.shift = shift
        self.mirror = mirror

    def forward(self, at: Judged) -> Tensor:
        """(D(x) - D(T x))^2 on reals; T shifts by up to `shift` of the side, and mirrors half of them if asked."""
        moved = translate(at.real.detach(), self.shift, at.generator)
        if self.mirror:
            moved = flip(moved, at.generator)
        return (at.judge(moved) - at.logits_real).square()

    def extra_repr(self) -> str:
        """The options, as modules show them."""
        return f"{super().extra_repr()}, shift={self.shift:g}, mirror={self.mirror}"
