"""The pair of networks an architecture builds, and the pieces that architectures share."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

NormG = Literal["batch", "none"]
NormD = Literal["batch", "layer", "spectral", "none"]


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Channels (1 or 3) and height = width in pixels."""

    channels: int
    size: int


@dataclass(frozen=True, slots=True)
class Networks:
    """The contract of an architecture.

    generator: z [B, z_dim] -> pictures [B, C, S, S] in [-1, 1]. discriminator: pictures -> logits [B], unbounded.
    """

    generator: nn.Module
    discriminator: nn.Module
    z_dim: int


def normalised(layer: nn.Module, norm: str, channels: int, *, flat: bool = False) -> list[nn.Module]:
    """A layer with its normalisation: spectral wraps the layer, the others follow it."""
    if norm == "spectral":
        return [spectral_norm(layer)]
    if norm == "batch":
        return [layer, nn.BatchNorm1d(channels) if flat else nn.BatchNorm2d(channels)]
    if norm == "layer":
        return [layer, nn.GroupNorm(1, channels)]
    if norm != "none":
        raise ValueError(f"unknown normalisation `{norm}`")
    return [layer]
