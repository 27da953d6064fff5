"""Deep convolutional GAN for square pictures of any size from 8 to 128 pixels."""

from typing import Annotated, Literal

from torch import nn

from gantune.config import Bounds, Works
from gantune.models.networks import (
    FromMaps,
    ImageShape,
    Labelled,
    Latents,
    Networks,
    NormD,
    NormG,
    Resize,
    ToMaps,
    classes_of,
    halvings,
    normalised,
    pictures_only,
)

EMBEDDING = 16  # numbers that tell the generator a class; the discriminator gets one more channel


@pictures_only
def dcgan(
    shape: ImageShape,
    *,
    width: Annotated[int, Bounds(low=4, high=512), Works("[16, 32, 64]")] = 32,
    z_dim: Latents = 64,
    norm_g: NormG = "batch",
    norm_d: NormD = "batch",
    upsampling: Literal["transposed", "nearest", "bilinear"] = "transposed",
    conditional: bool = False,
) -> Networks:
    """Strided convolutions; `width` channels next to the picture, doubling inwards to at most 8 x width.

    Radford et al. 2016; resizing before a convolution instead of transposing one: Odena et al. 2016. Classes are told
    by an embedding: Mirza & Osindero 2014. Sizes that do not halve evenly (28 -> 14 -> 7, 50 -> 25 -> 13) are met
    exactly by kernels of 3 where the larger side is odd. Below 15 pixels there is one halving, and a further layer
    that keeps the side, so that there is one to normalise.
    """
    classes = classes_of(shape, conditional)
    told = EMBEDDING if classes else 0
    sides = halvings(shape.size)
    if len(sides) == 2:
        sides.append(sides[-1])
    widths = [min(width * 2**stage, width * 8) for stage in range(len(sides) - 1)]
    base, inner = sides[-1], widths[-1]

    generator: list[nn.Module] = [
        nn.Linear(z_dim + told, inner * base**2, bias=norm_g == "none"),
        *normalised(ToMaps(inner, base), norm_g, inner),
        nn.ReLU(),
    ]
    for stage in reversed(range(len(widths))):
        out = widths[stage - 1] if stage else shape.channels
        after = norm_g if stage else "none"  # no normalisation next to the picture
        up = _up(widths[stage], out, sides[stage + 1], sides[stage], upsampling, bias=after == "none")
        generator += [*up[:-1], *normalised(up[-1], after, out), nn.ReLU() if stage else nn.Tanh()]

    discriminator: list[nn.Module] = []
    for stage, channels in enumerate(widths):
        before = widths[stage - 1] if stage else shape.channels + bool(classes)
        norm = norm_d if stage or norm_d == "spectral" else "none"
        bias = norm in ("none", "spectral")
        if sides[stage] == sides[stage + 1]:
            down = nn.Conv2d(before, channels, 3, padding=1, bias=bias)
        else:
            down = nn.Conv2d(before, channels, 3 if sides[stage] % 2 else 4, stride=2, padding=1, bias=bias)
        discriminator += [*normalised(down, norm, channels), nn.LeakyReLU(0.2)]
    last = normalised(nn.Linear(inner * base**2, 1), "spectral" if norm_d == "spectral" else "none", 1)
    discriminator += [FromMaps(), *last, nn.Flatten(0)]  # [B, 1] -> [B]

    if classes:
        plane = (1, shape.size, shape.size)
        networks = Networks(Labelled(generator, classes, (told,)), Labelled(discriminator, classes, plane), z_dim, True)
    else:
        networks = Networks(nn.Sequential(*generator), nn.Sequential(*discriminator), z_dim)
    for network in (networks.generator, networks.discriminator):
        for module in network.modules():
            _initialise(module)
    return networks


def _up(before: int, after: int, inner: int, outer: int, kind: str, *, bias: bool) -> list[nn.Module]:
    """Layers from side `inner` to side `outer`, the convolution last."""
    if inner == outer:
        return [nn.Conv2d(before, after, 3, padding=1, bias=bias)]
    if kind == "transposed":
        return [nn.ConvTranspose2d(before, after, 3 if outer % 2 else 4, stride=2, padding=1, bias=bias)]
    return [Resize(outer, kind), nn.Conv2d(before, after, 3, padding=1, bias=bias)]


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
