"""Optimizers as components: options in, a constructor for one network's parameters out.

All of them step all weights at once: fused where torch has such a kernel, else foreach.
"""

from collections.abc import Callable, Iterable
from typing import Annotated

from torch import Tensor, optim

from gantune.compatibility import Not, refuses
from gantune.config import Bounds, Works

Build = Callable[[Iterable[Tensor], float], optim.Optimizer]
Beta1 = Annotated[float, Bounds(low=0, high=0.999999), Works("0..0.9")]
Beta2 = Annotated[float, Bounds(low=0, high=0.999999), Works("[0.9, 0.99, 0.999]")]
Momentum = Annotated[float, Bounds(low=0, high=0.999999), Works("0..0.9")]


forgetting = refuses(
    {"beta_schedule.final": 0.0},
    why="a second moment that forgets nothing stands still",
    fix="use a final factor such as 0.1",
)


@forgetting
def adam(*, beta1: Beta1 = 0.5, beta2: Beta2 = 0.999) -> Build:
    """Adam, with the first moment's decay that GANs need. Kingma & Ba 2015; Radford et al. 2016."""
    return lambda parameters, lr: optim.Adam(parameters, lr=lr, betas=(beta1, beta2), fused=True)


@forgetting
def adamw(
    *,
    beta1: Beta1 = 0.5,
    beta2: Beta2 = 0.999,
    weight_decay: Annotated[float, Bounds(low=0), Works("log 1e-6..1e-2")] = 1e-4,
) -> Build:
    """Adam with decoupled weight decay. Loshchilov & Hutter 2019."""
    return lambda parameters, lr: optim.AdamW(
        parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True
    )


@forgetting
def rmsprop(
    *,
    alpha: Annotated[float, Bounds(above=0, high=0.999999), Works("[0.9, 0.99, 0.999]")] = 0.99,
    momentum: Momentum = 0.0,
) -> Build:
    """RMSprop, the optimizer of the clipped WGAN. Tieleman & Hinton 2012; Arjovsky et al. 2017."""
    return lambda parameters, lr: optim.RMSprop(parameters, lr=lr, alpha=alpha, momentum=momentum, foreach=True)


@refuses(
    {"beta_schedule": Not("constant")},
    why="plain descent has no second moment whose decay it could change",
    fix="use beta_schedule: constant, or adam, adamw or rmsprop",
)
@refuses({"nesterov": True, "momentum": 0.0}, why="it looks ahead along the momentum", fix="use momentum above 0")
def sgd(*, momentum: Momentum = 0.0, nesterov: bool = False) -> Build:
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum. Sutskever et al. 2013."""
    return lambda parameters, lr: optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
