"""Fully connected networks, as in the first GAN; for pictures and for points."""

import math
from typing import Annotated, Literal

from torch import Tensor, nn

from gantune.config import Bounds, Works
from gantune.models.networks import ImageShape, Labelled, Networks, Shape, classes_of, normalised

EMBEDDING = 16  # numbers that tell the networks a class


class _Pictures(nn.Module):
    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape.dims

    def forward(self, flat: Tensor) -> Tensor:
        return flat.tanh().reshape(-1, *self.shape)  # [B, C, S, S]


def mlp(
    shape: Shape,
    *,
    hidden: Annotated[int, Bounds(low=4, high=8192), Works("[128, 256, 512]")] = 256,
    depth: Annotated[int, Bounds(low=1, high=16), Works("int 2..4")] = 2,
    z_dim: Annotated[int, Bounds(low=1, high=4096), Works("[2, 16, 64, 128]")] = 64,
    norm_g: Literal["batch", "layer", "none"] = "none",
    norm_d: Literal["batch", "layer", "spectral", "none"] = "none",
    conditional: bool = False,
) -> Networks:
    """`depth` hidden layers of width `hidden` in each network, leaky ReLU. Goodfellow et al. 2014.

    Classes are told by an embedding beside the input. Mirza & Osindero 2014.
    """
    classes = classes_of(shape, conditional)
    told = EMBEDDING if classes else 0
    numbers = math.prod(shape.dims)
    generator: list[nn.Module] = []
    discriminator: list[nn.Module] = []
    for layer in range(depth):
        first = layer == 0
        generator += normalised(nn.Linear(z_dim + told if first else hidden, hidden), norm_g, hidden, flat=True)
        generator.append(nn.LeakyReLU(0.2))
        discriminator += normalised(nn.Linear(numbers + told if first else hidden, hidden), norm_d, hidden, flat=True)
        discriminator.append(nn.LeakyReLU(0.2))
    generator.append(nn.Linear(hidden, numbers))
    if isinstance(shape, ImageShape):
        generator.append(_Pictures(shape))
    last = normalised(nn.Linear(hidden, 1), "spectral" if norm_d == "spectral" else "none", 1)
    discriminator += [*last, nn.Flatten(0)]  # [B, 1] -> [B]
    if not classes:
        return Networks(nn.Sequential(*generator), nn.Sequential(nn.Flatten(), *discriminator), z_dim)
    return Networks(
        Labelled(generator, classes, (told,)), _Flat(Labelled(discriminator, classes, (told,))), z_dim, True
    )


class _Flat(nn.Module):
    """Flattens samples before a network that takes labels."""

    def __init__(self, judge: nn.Module) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.judge(samples.flatten(1), labels)
        return logits
