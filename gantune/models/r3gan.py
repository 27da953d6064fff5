"""A residual GAN without normalisation after R3GAN, for square pictures of any size from 8 to 128 pixels."""

import math
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, pad

from gantune.compatibility import refuses
from gantune.config import Bounds, Works
from gantune.models.networks import (
    ImageShape,
    Latents,
    Networks,
    Width,
    classes_of,
    halvings,
    pictures_only,
    residual_width,
)

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through a leaky ReLU. He et al. 2015
CONVOLUTIONS = 3  # in a block


@pictures_only
@refuses(
    {"penalty": "none", "loss": "relativistic"},
    why="without normalisation the relativistic game is bounded by R1 and R2 alone",
    fix="use penalty: r1_r2",
)
@refuses(
    {"loss": "wasserstein", "loss.clip": 0.0, "penalty": "none"},
    why="nothing bounds the critic, so its loss has no minimum",
    fix="use a penalty such as r1_r2",
)
def r3gan(
    shape: ImageShape,
    *,
    width: Width = 64,
    depth: Annotated[int, Bounds(low=1, high=8), Works("[1, 2]")] = 1,
    expansion: Annotated[int, Bounds(low=1, high=8), Works("[1, 2]")] = 2,
    group_width: Annotated[int, Bounds(low=1, high=64), Works("[8, 16]")] = 16,
    z_dim: Latents = 64,
    conditional: bool = False,
) -> Networks:
    """`depth` grouped-bottleneck blocks a side, no normalisation, bilinear resampling. Huang et al. 2024, section 4.

    A block expands `width` channels by `expansion`, convolves in groups of `group_width`, and adds the result; its last
    layer starts at 0 and the others scaled by the number of blocks to the power -1/4. Zhang et al. 2019, Fixup.
    Channels are constant up to 32 pixels and halved for each doubling beyond. Classes: an embedding beside the latents,
    projection in the discriminator.
    """
    classes = classes_of(shape, conditional)
    sides = halvings(shape.size)[::-1]
    widths = [residual_width(width, side) for side in sides]
    scale = (depth * len(sides)) ** (-1 / (2 * CONVOLUTIONS - 2))
    form = (depth, expansion, group_width, scale)
    return Networks(
        _Generator(shape, z_dim, sides, widths, form, classes),
        _Discriminator(shape, sides[::-1], widths[::-1], form, classes),
        z_dim,
        bool(classes),
    )


Form = tuple[int, int, int, float]


class _Bias(nn.Module):
    """A bias and a leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        return leaky_relu(maps + self.bias[:, None, None], SLOPE)


def _conv(before: int, after: int, kernel: int, gain: float, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, of weights from N(0, gain^2 / fan-in)."""
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(before // groups * kernel**2))
    return layer


class _Block(nn.Module):
    def __init__(self, channels: int, expansion: int, group_width: int, scale: float) -> None:
        super().__init__()
        inner = channels * expansion
        groups = max(1, inner // group_width)
        inner = max(1, inner // groups) * groups
        self.layers = nn.Sequential(
            _conv(channels, inner, 1, GAIN * scale),
            _Bias(inner),
            _conv(inner, inner, 3, GAIN * scale, groups),
            _Bias(inner),
            _conv(inner, channels, 1, 0.0),
        )

    def forward(self, maps: Tensor) -> Tensor:
        change: Tensor = self.layers(maps)
        return maps + change


class _Grow(nn.Module):
    """A 1x1 convolution where the width changes, then bilinear interpolation to an exact side."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__()
        self.conv = _conv(before, after, 1, 1.0) if before != after else nn.Identity()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        return interpolate(self.conv(maps), size=(self.side, self.side), mode="bilinear", align_corners=False)


class _Shrink(nn.Module):
    """Half the side, rounded up, through the low-pass filter of bilinear interpolation, then a 1x1 convolution."""

    taps: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", (row[:, None] * row).expand(before, 1, 4, 4).clone())
        self.conv = _conv(before, after, 1, 1.0) if before != after else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        odd = maps.shape[-1] % 2
        maps = conv2d(pad(maps, (1, 1 + odd, 1, 1 + odd)), self.taps, stride=2, groups=len(self.taps))
        small: Tensor = self.conv(maps)
        return small


class _Generator(nn.Module):
    def __init__(
        self, shape: ImageShape, z_dim: int, sides: list[int], widths: list[int], form: Form, classes: int
    ) -> None:
        super().__init__()
        depth, *block = form
        self.labels = nn.Embedding(classes, z_dim) if classes else None
        self.start = nn.Linear(2 * z_dim if classes else z_dim, widths[0], bias=False)
        nn.init.normal_(self.start.weight, 0.0, 1 / math.sqrt(self.start.in_features))
        self.basis = nn.Parameter(torch.randn(widths[0], sides[0], sides[0]))
        layers: list[nn.Module] = []
        for stage, (side, channels) in enumerate(zip(sides, widths, strict=True)):
            if stage:
                layers.append(_Grow(widths[stage - 1], channels, side))
            layers += [_Block(channels, *block) for _ in range(depth)]  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers, _conv(widths[-1], shape.channels, 1, 1.0), nn.Tanh())

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.labels is not None:
            latents = torch.cat([latents, self.labels(labels)], 1)
        pictures: Tensor = self.layers(self.basis * self.start(latents)[:, :, None, None])
        return pictures


class _Discriminator(nn.Module):
    def __init__(self, shape: ImageShape, sides: list[int], widths: list[int], form: Form, classes: int) -> None:
        super().__init__()
        depth, *block = form
        layers: list[nn.Module] = [_conv(shape.channels, widths[0], 1, 1.0)]
        for stage, channels in enumerate(widths):
            if stage:
                layers.append(_Shrink(widths[stage - 1], channels))
            layers += [_Block(channels, *block) for _ in range(depth)]  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers)
        self.basis = nn.Conv2d(widths[-1], widths[-1], sides[-1], groups=widths[-1], bias=False)
        nn.init.normal_(self.basis.weight, 0.0, 1 / sides[-1])
        self.end = nn.Linear(widths[-1], 1, bias=False)
        nn.init.normal_(self.end.weight, 0.0, 1 / math.sqrt(widths[-1]))
        self.labels = nn.Embedding(classes, widths[-1]) if classes else None

    def forward(self, pictures: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.basis(self.layers(pictures)).flatten(1)  # [B, C]
        logits: Tensor = self.end(features).flatten()  # [B]
        if self.labels is not None:
            logits = logits + (self.labels(labels) * features).sum(1) / math.sqrt(features.shape[1])
        return logits
