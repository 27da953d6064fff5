"""The pair of networks an architecture builds, and the pieces that architectures share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrizations import spectral_norm

from gantune.augmentation import POINTS
from gantune.compatibility import refuses
from gantune.config import Bounds, Works

NormG = Literal["batch", "layer", "instance", "none"]
NormD = Literal["batch", "layer", "instance", "spectral", "none"]
Width = Annotated[int, Bounds(low=4, high=1024), Works("[32, 64, 128]")]
Latents = Annotated[int, Bounds(low=1, high=4096), Works("[64, 128, 256]")]

SMALLEST = 7  # convolutional generators start from 4 to 7 pixels
FULL_WIDTH = 32  # pixels up to which a residual network keeps its width; each doubling beyond halves it


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Channels (1 or 3), height = width in pixels, and the number of classes, 0 where there are no labels."""

    channels: int
    size: int
    classes: int = 0

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (self.channels, self.size, self.size)

    def __str__(self) -> str:
        return "x".join(map(str, self.dims))


@dataclass(frozen=True, slots=True)
class PointShape:
    """The coordinates of a point, and the number of classes, 0 where there are no labels."""

    coordinates: int
    classes: int = 0

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (self.coordinates,)

    def __str__(self) -> str:
        return f"points of {self.coordinates} coordinates"


Shape = ImageShape | PointShape


def shape_of(dims: Sequence[int], classes: int) -> Shape:
    """The shape of samples of these dimensions: (C, S, S) or (D,). Raises ValueError for others."""
    if len(dims) == 3 and dims[1] == dims[2]:
        return ImageShape(dims[0], dims[1], classes)
    if len(dims) == 1:
        return PointShape(dims[0], classes)
    raise ValueError(f"samples are pictures (C, S, S) or points (D,), not {tuple(dims)}")


@dataclass(frozen=True, slots=True)
class Networks:
    """The contract of an architecture.

    generator: z [B, z_dim] -> samples [B, *shape.dims], pictures in [-1, 1]. discriminator: samples -> logits [B],
    unbounded. Of `conditional` networks both take labels, int64 [B], as a second argument.
    """

    generator: nn.Module
    discriminator: nn.Module
    z_dim: int
    conditional: bool = False


pictures_only = refuses(
    {"data.dataset": POINTS}, why="its convolutions need pictures, and the data are points", fix="use architecture: mlp"
)


def classes_of(shape: Shape, conditional: bool) -> int:
    """How many classes the networks are told apart by; 0 where they are not. Raises ValueError without labels."""
    if conditional and not shape.classes:
        raise ValueError("conditional: true needs labels, and the data have none; use conditional: false")
    return shape.classes if conditional else 0


def halvings(size: int) -> list[int]:
    """The sides from the picture's inwards, each half the one before, rounded up, to one of 4 to 7 pixels."""
    sides = [size]
    while sides[-1] > SMALLEST:
        sides.append((sides[-1] + 1) // 2)
    return sides


def residual_width(width: int, side: int) -> int:
    """Channels at a side: `width` up to 32 pixels, half of it for each doubling beyond."""
    while side > FULL_WIDTH:
        width, side = width // 2, (side + 1) // 2
    return max(4, width)


def normalised(layer: nn.Module, norm: str, channels: int, *, flat: bool = False) -> list[nn.Module]:
    """A layer with its normalisation: spectral wraps the layer, the others follow it."""
    if norm == "spectral":
        return [spectral_norm(layer)]
    if norm == "batch":
        return [layer, nn.BatchNorm1d(channels) if flat else nn.BatchNorm2d(channels)]
    if norm == "layer":
        return [layer, nn.GroupNorm(1, channels)]
    if norm == "instance" and not flat:
        return [layer, nn.GroupNorm(channels, channels)]
    if norm != "none":
        raise ValueError(f"unknown normalisation `{norm}`")
    return [layer]


class ToMaps(nn.Module):
    """Numbers [B, C * S * S] as maps [B, C, S, S], channels last in memory, without a copy."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.channels, self.side = channels, side

    def forward(self, flat: Tensor) -> Tensor:
        """The maps."""
        return flat.reshape(-1, self.side, self.side, self.channels).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """The options, as modules show them."""
        return f"{self.channels}, {self.side}"


class FromMaps(nn.Module):
    """Maps [B, C, S, S], channels last in memory, as numbers [B, S * S * C], without a copy."""

    def forward(self, maps: Tensor) -> Tensor:
        """The numbers."""
        return maps.permute(0, 2, 3, 1).flatten(1)


class Resize(nn.Module):
    """To an exact side, by nearest neighbours or bilinear interpolation."""

    def __init__(self, side: int, kind: str) -> None:
        super().__init__()
        self.side = side
        self.kind = kind

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the new side."""
        corners = None if self.kind == "nearest" else False
        return interpolate(maps, size=(self.side, self.side), mode=self.kind, align_corners=corners)

    def extra_repr(self) -> str:
        """The options, as modules show them."""
        return f"{self.side}, {self.kind}"


class Labelled(nn.Sequential):
    """Layers whose input is joined by an embedding of the labels: as more numbers, or as one more channel.

    Mirza & Osindero 2014.
    """

    def __init__(self, layers: Sequence[nn.Module], classes: int, dims: tuple[int, ...]) -> None:
        super().__init__(*layers)
        self.labels = nn.Embedding(classes, math.prod(dims))
        self.dims = dims

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """samples: [B, ...], labels: int64 [B]."""
        joined = torch.cat([samples, self.labels(labels).reshape(-1, *self.dims)], 1)
        for layer in list(self)[:-1]:
            joined = layer(joined)
        return joined
