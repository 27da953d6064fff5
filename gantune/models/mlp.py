"""Fully connected networks, as in the first GAN."""

from typing import Annotated, Literal

from torch import Tensor, nn

from gantune.config import Bounds, Count
from gantune.models.networks import ImageShape, Networks, NormG, normalised


class _Pictures(nn.Module):
    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = (shape.channels, shape.size, shape.size)

    def forward(self, flat: Tensor) -> Tensor:
        return flat.tanh().reshape(-1, *self.shape)  # [B, C, S, S]


def mlp(
    shape: ImageShape,
    *,
    hidden: Annotated[int, Bounds(low=4, high=8192)] = 256,
    depth: Annotated[int, Bounds(low=1, high=16)] = 2,
    z_dim: Count = 64,
    norm_g: NormG = "none",
    norm_d: Literal["layer", "spectral", "none"] = "none",
) -> Networks:
    """`depth` hidden layers of width `hidden` in each network, leaky ReLU. Goodfellow et al. 2014."""
    pixels = shape.channels * shape.size**2
    generator: list[nn.Module] = []
    discriminator: list[nn.Module] = [nn.Flatten()]
    for layer in range(depth):
        generator += normalised(nn.Linear(z_dim if layer == 0 else hidden, hidden), norm_g, hidden, flat=True)
        generator.append(nn.LeakyReLU(0.2))
        discriminator += normalised(nn.Linear(pixels if layer == 0 else hidden, hidden), norm_d, hidden, flat=True)
        discriminator.append(nn.LeakyReLU(0.2))
    generator += [nn.Linear(hidden, pixels), _Pictures(shape)]
    last = normalised(nn.Linear(hidden, 1), "spectral" if norm_d == "spectral" else "none", 1)
    discriminator += [*last, nn.Flatten(0)]  # [B, 1] -> [B]
    return Networks(nn.Sequential(*generator), nn.Sequential(*discriminator), z_dim)
