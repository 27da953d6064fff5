"""Residual networks in the style of SNGAN, for square pictures of any size from 8 to 128 pixels."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu
from torch.nn.utils.parametrizations import spectral_norm

from gantune.config import Bounds, Works
from gantune.models.networks import (
    ImageShape,
    Latents,
    Networks,
    NormD,
    NormG,
    Resize,
    Width,
    classes_of,
    halvings,
    normalised,
    pictures_only,
    residual_width,
)

ATTENDED_SIDE = 32  # pixels up to which attention is affordable
PLAIN_SIDE = 8  # pixels at which the discriminator stops halving. Miyato et al. 2018, table 4

Wrap = Callable[[nn.Module], nn.Module]


@pictures_only
def resnet(
    shape: ImageShape,
    *,
    width_g: Width = 128,
    width_d: Width = 128,
    depth: Annotated[int, Bounds(low=1, high=8), Works("[1, 2]")] = 2,
    z_dim: Latents = 128,
    norm_g: NormG = "batch",
    norm_d: NormD = "spectral",
    spectral_g: bool = False,
    attention: bool = False,
    upsampling: Literal["nearest", "bilinear"] = "nearest",
    conditional: bool = False,
) -> Networks:
    """Residual blocks of constant width up to 32 pixels, halved for each doubling beyond. Miyato et al. 2018, table 4.

    The discriminator halves to 8 pixels and goes on with `depth` blocks that keep the side. `spectral_g` and
    `attention` (at half the side, or at 32 pixels of larger pictures): Zhang et al. 2019, SAGAN. Classes:
    class-conditional normalisation in the generator, projection in the discriminator, Miyato & Koyama 2018; without
    normalisation the generator is told by an embedding beside the latents.
    """
    classes = classes_of(shape, conditional)
    networks = Networks(
        _Generator(shape, width_g, z_dim, norm_g, spectral_g, attention, upsampling, classes),
        _Discriminator(shape, width_d, depth, norm_d, attention, classes),
        z_dim,
        bool(classes),
    )
    for network in (networks.generator, networks.discriminator):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                if not hasattr(module, "parametrizations"):
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return networks


class _Norm(nn.Module):
    """A normalisation whose scale and shift belong to the class where there are classes. de Vries et al. 2017."""

    def __init__(self, norm: str, channels: int, classes: int) -> None:
        super().__init__()
        layers = normalised(nn.Identity(), norm, channels)[1:]
        self.norm = layers[0] if layers else nn.Identity()
        self.scales = nn.Embedding(classes, channels) if classes and layers else None
        self.shifts = nn.Embedding(classes, channels) if classes and layers else None
        if self.scales is not None and self.shifts is not None:
            nn.init.ones_(self.scales.weight)
            nn.init.zeros_(self.shifts.weight)
            self.norm.weight = self.norm.bias = None  # type: ignore[assignment]

    def forward(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        maps = self.norm(maps)
        if self.scales is None or self.shifts is None:
            return maps
        return torch.addcmul(self.shifts(labels)[:, :, None, None], maps, self.scales(labels)[:, :, None, None])


class _Attention(nn.Module):
    """Self-attention over positions, faded in by a learned weight that starts at 0. Zhang et al. 2019, section 3."""

    def __init__(self, channels: int, wrap: Wrap) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = wrap(nn.Conv2d(channels, inner, 1, bias=False))
        self.key = wrap(nn.Conv2d(channels, inner, 1, bias=False))
        self.value = wrap(nn.Conv2d(channels, max(1, channels // 2), 1, bias=False))
        self.out = wrap(nn.Conv2d(max(1, channels // 2), channels, 1, bias=False))
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        side = maps.shape[-1]
        query, key, value = (layer(maps).flatten(2) for layer in (self.query, self.key, self.value))  # [B, C', S*S]
        shares = torch.softmax(query.transpose(1, 2) @ key, -1)  # [B, S*S, S*S]
        attended = (value @ shares.transpose(1, 2)).unflatten(2, (side, side))
        faded: Tensor = self.weight * self.out(attended)
        return maps + faded


class _UpBlock(nn.Module):
    def __init__(self, before: int, after: int, side: int, norm: str, kind: str, classes: int, wrap: Wrap) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(norm, before, classes), _Norm(norm, after, classes)
        self.resize = Resize(side, kind)
        self.conv1 = wrap(nn.Conv2d(before, after, 3, padding=1))
        self.conv2 = wrap(nn.Conv2d(after, after, 3, padding=1))
        self.short = wrap(nn.Conv2d(before, after, 1))

    def forward(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        inner = self.conv1(self.resize(relu(self.norm1(maps, labels))))
        inner = self.conv2(relu(self.norm2(inner, labels)))
        short: Tensor = self.resize(self.short(maps))  # a 1x1 convolution here equals one after, and is cheaper
        joined: Tensor = short + inner
        return joined


class _Generator(nn.Module):
    def __init__(
        self,
        shape: ImageShape,
        width: int,
        z_dim: int,
        norm: str,
        spectral: bool,
        attention: bool,
        kind: str,
        classes: int,
    ) -> None:
        super().__init__()
        wrap: Wrap = spectral_norm if spectral else _plain
        sides = halvings(shape.size)[::-1]
        widths = [residual_width(width, side) for side in sides]
        self.labels = nn.Embedding(classes, z_dim) if classes and norm == "none" else None
        inputs = 2 * z_dim if self.labels is not None else z_dim
        self.start = nn.Sequential(
            wrap(nn.Linear(inputs, widths[0] * sides[0] ** 2)), nn.Unflatten(1, (widths[0], sides[0], sides[0]))
        )
        self.blocks = nn.ModuleList(
            _UpBlock(before, after, side, norm, kind, classes, wrap)
            for before, after, side in zip(widths[:-1], widths[1:], sides[1:], strict=True)
        )
        self.attended = sum(side <= _attended_side(shape.size) for side in sides[1:]) - 1 if len(sides) > 2 else 0
        self.attention = _Attention(widths[self.attended + 1], wrap) if attention else None
        self.norm = _Norm(norm, widths[-1], classes)
        self.end = wrap(nn.Conv2d(widths[-1], shape.channels, 3, padding=1))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.labels is not None:
            latents = torch.cat([latents, self.labels(labels)], 1)
        maps = self.start(latents)
        for index, block in enumerate(self.blocks):
            maps = block(maps, labels)
            if self.attention is not None and index == self.attended:
                maps = self.attention(maps)
        pictures: Tensor = torch.tanh(self.end(relu(self.norm(maps, labels))))
        return pictures


class _DownBlock(nn.Module):
    """Two convolutions beside a shortcut; the first block of a network has no activation before them."""

    def __init__(self, before: int, after: int, norm: str, *, first: bool, halve: bool) -> None:
        super().__init__()
        wrap: Wrap = spectral_norm if norm == "spectral" else _plain
        kind = "none" if norm == "spectral" else norm
        self.first, self.halve = first, halve
        self.norm1 = _Norm("none" if first else kind, before, 0)
        self.norm2 = _Norm(kind, after, 0)
        self.conv1 = wrap(nn.Conv2d(before, after, 3, padding=1))
        self.conv2 = wrap(nn.Conv2d(after, after, 3, padding=1))
        self.short = wrap(nn.Conv2d(before, after, 1)) if halve or before != after else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.conv1(maps if self.first else relu(self.norm1(maps, None)))
        inner = self.conv2(relu(self.norm2(inner, None)))
        if not self.halve:
            plain: Tensor = self.short(maps) + inner
            return plain
        short: Tensor = self.short(_halve(maps))  # pooled before the 1x1 convolution, which equals pooling after it
        return short + _halve(inner)


class _Discriminator(nn.Module):
    def __init__(self, shape: ImageShape, width: int, depth: int, norm: str, attention: bool, classes: int) -> None:
        super().__init__()
        wrap: Wrap = spectral_norm if norm == "spectral" else _plain
        side, before = shape.size, shape.channels
        blocks: list[nn.Module] = []
        while side > PLAIN_SIDE or not blocks:
            side = (side + 1) // 2
            after = residual_width(width, side)
            blocks.append(_DownBlock(before, after, norm, first=not blocks, halve=True))
            if attention and side == _attended_side(shape.size):
                blocks.append(_Attention(after, wrap))
            before = after
        blocks += [_DownBlock(before, before, norm, first=False, halve=False) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.end = wrap(nn.Linear(before, 1))
        self.labels = wrap(nn.Embedding(classes, before)) if classes else None

    def forward(self, pictures: Tensor, labels: Tensor | None = None) -> Tensor:
        features = relu(self.blocks(pictures)).sum((2, 3))  # [B, C]
        logits: Tensor = self.end(features).flatten()  # [B]
        if self.labels is not None:
            logits = logits + (self.labels(labels) * features).sum(1)
        return logits


def _attended_side(size: int) -> int:
    """The largest side after a halving at which attention is affordable."""
    side = (size + 1) // 2
    while side > ATTENDED_SIDE:
        side = (side + 1) // 2
    return side


def _plain(layer: nn.Module) -> nn.Module:
    return layer


def _halve(maps: Tensor) -> Tensor:
    return avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)
