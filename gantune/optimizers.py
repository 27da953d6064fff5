"""Optimizers as components: options in, a constructor for one network's parameters out."""

from collections.abc import Callable, Iterable
from typing import Annotated

from torch import nn, optim

from gantune.config import Bounds, Momentum

Build = Callable[[Iterable[nn.Parameter], float], optim.Optimizer]


def adam(*, beta1: Momentum = 0.5, beta2: Momentum = 0.999) -> Build:
    """Adam, with the first moment's decay that GANs need. Kingma & Ba 2015; Radford et al. 2016."""
    return lambda parameters, lr: optim.Adam(parameters, lr=lr, betas=(beta1, beta2), foreach=True)


def rmsprop(*, alpha: Annotated[float, Bounds(above=0, high=0.999999)] = 0.99, momentum: Momentum = 0.0) -> Build:
    """RMSprop, the optimizer of the clipped WGAN. Tieleman & Hinton 2012; Arjovsky et al. 2017."""
    return lambda parameters, lr: optim.RMSprop(parameters, lr=lr, alpha=alpha, momentum=momentum, foreach=True)


def sgd(*, momentum: Momentum = 0.0, nesterov: bool = False) -> Build:
    """Stochastic gradient descent. Nesterov's form needs momentum above 0 and is plain where there is none."""
    return lambda parameters, lr: optim.SGD(
        parameters, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, foreach=True
    )
