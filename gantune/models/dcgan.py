"""Deep convolutional GAN for square pictures of any size from 8 to 128 pixels."""

from typing import Annotated

from torch import nn

from gantune.config import Bounds, Count
from gantune.models.networks import ImageShape, Networks, NormD, NormG, normalised

SMALLEST = 7  # the networks meet the latent vector at 4 to 7 pixels


def dcgan(
    shape: ImageShape,
    *,
    width: Annotated[int, Bounds(low=4, high=512)] = 32,
    z_dim: Count = 64,
    norm_g: NormG = "batch",
    norm_d: NormD = "batch",
) -> Networks:
    """Strided convolutions; `width` channels next to the picture, doubling inwards to at most 8 x width.

    Radford et al. 2016. Sizes that do not halve evenly (28 -> 14 -> 7, 50 -> 25 -> 13) are met exactly by
    kernels of 3 where the larger side is odd.
    """
    sizes = [shape.size]
    while sizes[-1] > SMALLEST:
        sizes.append((sizes[-1] + 1) // 2)
    widths = [min(width * 2**stage, width * 8) for stage in range(len(sizes) - 1)]
    base = sizes[-1]
    inner = widths[-1]

    generator: list[nn.Module] = [
        nn.Linear(z_dim, inner * base**2, bias=norm_g == "none"),
        *normalised(nn.Unflatten(1, (inner, base, base)), norm_g, inner),
        nn.ReLU(),
    ]
    for stage in reversed(range(len(widths))):
        out = widths[stage - 1] if stage else shape.channels
        kernel = 3 if sizes[stage] % 2 else 4
        after = norm_g if stage else "none"  # no normalisation next to the picture
        up = nn.ConvTranspose2d(widths[stage], out, kernel, stride=2, padding=1, bias=after == "none")
        generator += [*normalised(up, after, out), nn.ReLU() if stage else nn.Tanh()]

    discriminator: list[nn.Module] = []
    for stage, channels in enumerate(widths):
        before = widths[stage - 1] if stage else shape.channels
        kernel = 3 if sizes[stage] % 2 else 4
        norm = norm_d if stage or norm_d == "spectral" else "none"
        down = nn.Conv2d(before, channels, kernel, stride=2, padding=1, bias=norm in ("none", "spectral"))
        discriminator += [*normalised(down, norm, channels), nn.LeakyReLU(0.2)]
    last = normalised(nn.Linear(inner * base**2, 1), "spectral" if norm_d == "spectral" else "none", 1)
    discriminator += [nn.Flatten(), *last, nn.Flatten(0)]  # [B, 1] -> [B]

    networks = Networks(nn.Sequential(*generator), nn.Sequential(*discriminator), z_dim)
    for network in (networks.generator, networks.discriminator):
        for module in network.modules():
            _initialise(module)
    return networks


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02), scales of batch norm from N(1, 0.02). Radford et al. 2016, section 4."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        if not hasattr(module, "parametrizations"):  # under spectral norm the scale of the weight has no effect
            nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
