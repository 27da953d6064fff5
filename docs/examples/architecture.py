"""An architecture of one's own: `architecture: architecture:plain`, or `{architecture:plain: {width: [64, 128]}}`."""

from typing import Annotated

from torch import nn

from gantune.config import Bounds, Works
from gantune.models.networks import ImageShape, Networks


def plain(shape: ImageShape, *, width: Annotated[int, Bounds(low=8), Works("[64, 128, 256]")] = 64) -> Networks:
    """Two layers each way, on flattened pictures. Each keyword is an option; what it accepts is its annotation."""
    pixels = shape.channels * shape.size**2
    generator = nn.Sequential(
        nn.Linear(32, width), nn.ReLU(), nn.Linear(width, pixels), nn.Tanh(), nn.Unflatten(1, shape.dims)
    )
    discriminator = nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, width), nn.LeakyReLU(0.2), nn.Linear(width, 1), nn.Flatten(0)
    )
    return Networks(generator, discriminator, z_dim=32)  # z [B, 32] -> pictures in -1..1; pictures -> logits [B]
