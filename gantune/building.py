"""Components built from a configuration, each held to its contract: a user's own may fail in any way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gantune import plugins
from gantune.config import Component
from gantune.errors import PluginError
from gantune.models.networks import Networks, Shape
from gantune.optimizers import Build
from gantune.schedules import Schedule


def build_networks(architecture: Component, shape: Shape, seed: int) -> Networks:
    """Build and initialise an architecture's networks from a seed.

    Raises PluginError where they cannot be built or do not keep the contract of Networks.
    """
    factory = plugins.resolve("architecture", architecture.name)
    where = f"architecture `{architecture.name}`"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone
        try:
            built = factory(shape, **dict(architecture.options))
        except Exception as error:  # a user's architecture may fail in any way; say so and where
            raise PluginError(f"{where} cannot be built for {shape}: {error}") from error
        if not isinstance(built, Networks):
            raise PluginError(f"{where} must return Networks, got {type(built).__name__}")
        _check_contract(built, shape, where)
    return built


@torch.no_grad()
def _check_contract(built: Networks, shape: Shape, where: str) -> None:
    """Pass two samples through fresh networks. Raises PluginError where shapes or ranges are not the contract's."""
    labels = (torch.zeros(2, dtype=torch.int64),) if built.conditional else ()
    training = built.generator.training, built.discriminator.training
    try:
        samples = built.generator.eval()(torch.randn(2, built.z_dim), *labels)
        logits = built.discriminator.eval()(samples, *labels)
    except Exception as error:  # as above
        raise PluginError(f"{where} fails on a batch of 2 for {shape}: {error}") from error
    finally:
        built.generator.train(training[0])
        built.discriminator.train(training[1])
    for network, returned in (("generator", samples), ("discriminator", logits)):
        if not isinstance(returned, Tensor):
            raise PluginError(f"{where}: its {network} must give a tensor, got {type(returned).__name__}")
    if tuple(samples.shape) != (2, *shape.dims):
        raise PluginError(f"{where}: its generator must give {(2, *shape.dims)}, got {tuple(samples.shape)}")
    if len(shape.dims) == 3 and bool((samples.abs() > 1).any()):
        raise PluginError(f"{where}: its generator must give pictures in [-1, 1], got {float(samples.abs().max()):.3g}")
    if tuple(logits.shape) != (2,):
        raise PluginError(f"{where}: its discriminator must give one logit a sample, (2,), got {tuple(logits.shape)}")


def build_component(kind: str, component: Component, contract: Any) -> Any:
    """What a component's function gives. Raises PluginError where it fails or gives something else than `contract`."""
    factory = plugins.resolve(kind, component.name)
    try:
        built = factory(**dict(component.options))
    except Exception as error:  # a user's component may fail in any way; say so and where
        raise PluginError(f"{kind} `{component.name}` cannot be built: {error}") from error
    if not isinstance(built, contract):
        wanted = getattr(contract, "__name__", str(contract))
        raise PluginError(f"{kind} `{component.name}` must return a {wanted}, got {type(built).__name__}")
    return built


def build_optimizer(component: Component, weights: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """An optimizer of these weights. Raises PluginError where it cannot be built."""
    build: Build = build_component("optimizer", component, Callable)
    try:
        optimizer = build(weights, lr)
    except Exception as error:  # as above
        raise PluginError(f"optimizer `{component.name}` cannot be built: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PluginError(f"optimizer `{component.name}` must build an Optimizer, got {type(optimizer).__name__}")
    return optimizer


def build_schedule(component: Component) -> Schedule:
    """A schedule that was seen to give a number. Raises PluginError where it does not."""
    schedule: Schedule = build_component("schedule", component, Callable)
    factor: object = schedule(0.0)
    if not isinstance(factor, int | float):
        raise PluginError(f"schedule `{component.name}` must give a number, got {type(factor).__name__}")
    return schedule
