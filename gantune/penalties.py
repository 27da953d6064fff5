"""Terms that bound the discriminator by its gradients with respect to pictures."""

import torch
from torch import Tensor, nn

EPSILON = 1e-12  # keeps the root's own gradient finite where the norm is 0


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """(|grad D(x)| - 1)^2 at points between real and fake, per sample.

    real, fake: [B, ...]. Returns [B], >= 0. One mixing weight and one norm per sample. Gulrajani et al. 2017, eq. 3.
    """
    weights = torch.rand(len(real), generator=generator, device=generator.device).to(real.device)
    alpha = weights.reshape(-1, *[1] * (real.dim() - 1))  # [B, 1, ...]
    between = torch.lerp(fake.detach(), real.detach(), alpha).requires_grad_(True)
    return (_squared_gradient(discriminator(between), between).add(EPSILON).sqrt() - 1).square()


def zero_centred(logits: Tensor, pictures: Tensor) -> Tensor:
    """Half the squared norm of the gradient of the logits, per sample: R1 on reals, R2 on fakes.

    logits: [B], computed from pictures [B, ...] that require a gradient. Returns [B], >= 0.
    Mescheder et al. 2018, eq. 9.
    """
    return 0.5 * _squared_gradient(logits, pictures)


def _squared_gradient(logits: Tensor, pictures: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return slope.flatten(1).square().sum(1)  # [B]
