"""Differentiable transforms of everything the discriminator sees, real and fake, so that few pictures suffice.

Every transform draws its own numbers a sample from a generator, and passes the gradient on to its input.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from gantune.compatibility import OneOf, refuses
from gantune.config import Bounds, Works

SHIFT = 0.125  # of the side. Zhao et al. 2020, section 4
CUT = 0.5  # of the side. Zhao et al. 2020, section 4
INTERVAL = 4  # D steps between two moves of the probability. Karras et al. 2020, appendix B
POINTS = OneOf("gaussians8", "gaussians25", "swiss_roll")


def recolour(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, saturation and contrast, each by a random amount a picture. Zhao et al. 2020, section 4.

    pictures: [B, C, S, S]; returns the same shape. Brightness moves by at most 0.5, saturation is scaled by 0 to 2,
    contrast by 0.5 to 1.5.
    """
    brightness, saturation, contrast = _uniform(pictures, 3, generator)  # [B, 1, 1, 1] each
    pictures = pictures + (brightness - 0.5)
    grey = pictures.mean(1, keepdim=True)
    pictures = torch.lerp(grey, pictures, 2 * saturation)
    return torch.lerp(pictures.mean((1, 2, 3), keepdim=True), pictures, contrast + 0.5)


def translate(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Shift by whole pixels, up to `share` of the side each way; what comes in is 0. Zhao et al. 2020, section 4."""
    side = pictures.shape[-1]
    most = max(1, round(share * side))
    drawn = _uniform(pictures, 2, generator).mul(2 * most + 1).floor().long().reshape(2, -1, 1)  # [2, B, 1]
    rows, columns = torch.arange(side, device=pictures.device) + drawn  # [B, S] each, into the padded picture
    padded = nn.functional.pad(pictures, (most, most, most, most))
    which = torch.arange(len(pictures), device=pictures.device)
    moved = padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [B, S, S, C]
    return moved.permute(0, 3, 1, 2)


def cutout(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A square of half the side becomes 0, its centre anywhere. DeVries & Taylor 2017; Zhao et al. 2020, section 4."""
    side = pictures.shape[-1]
    cut = round(CUT * side)
    centre = _uniform(pictures, 2, generator).mul(side + 1 - cut % 2).floor().reshape(2, -1, 1)  # [2, B, 1]
    place = torch.arange(side, device=pictures.device) - centre + cut // 2  # [2, B, S], 0..cut - 1 in the square
    near = (place >= 0) & (place < cut)
    return pictures.masked_fill((near[0, :, :, None] & near[1, :, None, :])[:, None], 0.0)


def flip(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror left and right with probability 1/2 each."""
    (drawn,) = _uniform(pictures, 1, generator)
    return torch.where(drawn < 0.5, pictures, pictures.flip(3))


def _uniform(pictures: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` numbers from [0, 1) a picture: [count, B, 1, 1, 1]."""
    drawn = torch.rand(count, len(pictures), 1, 1, 1, generator=generator, device=generator.device)
    return drawn.to(pictures.device, torch.promote_types(pictures.dtype, drawn.dtype))


class Augmentation(nn.Module):
    """The contract: a call transforms pictures [B, C, S, S]; `observe` hears the logits of every discriminator step."""

    def forward(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """The transformed pictures, through which gradients flow."""
        raise NotImplementedError

    def observe(self, signs: Tensor, step: int) -> None:
        """signs: [B], +1 where the discriminator takes a real for real; step: its number, from 0."""


def no_augmentation() -> None:
    """The discriminator sees pictures as they are."""


pictures_only = refuses(
    {"data.dataset": POINTS}, why="it transforms pictures, and the data are points", fix="use augmentation: none"
)
does_something = refuses(
    {"color": False, "translation": False, "cutout": False},
    why="no transform is left",
    fix="use augmentation: none, or one of color, translation, cutout",
)


@pictures_only
@does_something
class DiffAugment(Augmentation):
    """Random colour, shifts and holes, for all pictures. Zhao et al. 2020, DiffAugment."""

    def __init__(self, *, color: bool = True, translation: bool = True, cutout: bool = True) -> None:
        super().__init__()
        self.color, self.translation, self.cutout = color, translation, cutout

    def transforms(self) -> list[Callable[..., Tensor]]:
        """Those that are on, in order."""
        shifted = partial(translate, share=SHIFT)
        known = ((self.color, recolour), (self.translation, shifted), (self.cutout, cutout))
        return [transform for on, transform in known if on]

    def forward(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Every transform that is on, in turn."""
        for transform in self.transforms():
            pictures = transform(pictures, generator=generator)
        return pictures

    def extra_repr(self) -> str:
        """The options, as modules show them."""
        return f"color={self.color}, translation={self.translation}, cutout={self.cutout}"


class Adaptive(DiffAugment):
    """The same transforms, each with a probability that overfitting drives. Karras et al. 2020, StyleGAN2-ADA.

    Every 4 discriminator steps the probability moves by the pictures seen since over `speed_samples`: up where the
    mean sign of the reals' logits exceeds `target`, else down. In a shift-invariant game the sign is that of the
    distance to the paired fake's logit.
    """

    probability: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        target: Annotated[float, Bounds(low=0, high=1), Works("[0.5, 0.6, 0.7]")] = 0.6,
        speed_samples: Annotated[int, Bounds(low=1), Works("log 50000..500000")] = 500_000,
        color: bool = True,
        translation: bool = True,
        cutout: bool = True,
    ) -> None:
        super().__init__(color=color, translation=translation, cutout=cutout)
        self.target, self.speed_samples = target, speed_samples
        for name in ("probability", "signs", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Every transform that is on, each to the share of pictures that the probability says."""
        for transform in self.transforms():
            changed = transform(pictures, generator=generator)
            (drawn,) = _uniform(pictures, 1, generator)
            pictures = torch.where(drawn < self.probability, changed, pictures)
        return pictures

    @torch.no_grad()
    def observe(self, signs: Tensor, step: int) -> None:
        """Add up the signs; move the probability where the interval is over."""
        self.signs += signs.sum()
        self.seen += len(signs)
        if (step + 1) % INTERVAL == 0:
            direction = (self.signs / self.seen - self.target).sign()
            self.probability.add_(direction * self.seen / self.speed_samples).clamp_(0, 1)
            self.signs.zero_()
            self.seen.zero_()

    def extra_repr(self) -> str:
        """The options, as modules show them."""
        return f"target={self.target:g}, speed_samples={self.speed_samples}, {super().extra_repr()}"
