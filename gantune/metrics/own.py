"""A metric of somebody's own: any number that can be told from samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gantune import plugins
from gantune.errors import PluginError

SEED = 20_261_123  # of what a metric draws: the same samples have the same value


@dataclass(frozen=True, slots=True)
class Seen:
    """What a metric is given, all on the CPU. Pictures are uint8 [N, C, S, S], points float32 [N, D].

    `fake` are up to some thousands of the generator's samples, always from the same latents, and `real` held-out
    examples, which no generator has seen; `fake_features` and `real_features` are what the score sees of all samples
    and of training examples, float32 [N, D].
    """

    fake: Tensor
    real: Tensor
    fake_features: Tensor
    real_features: Tensor


def measure_own(name: str, seen: Seen) -> float:
    """The value of a metric, NaN where it has none. Raises PluginError where it fails, or is no number."""
    metric = plugins.resolve("metric", name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        try:
            return float(metric(seen))
        except Exception as error:  # a user's function may fail in any way
            raise PluginError(f"metric `{name}` fails: {type(error).__name__}: {error}") from error


def try_own(names: Sequence[str], seen: Seen) -> None:
    """Raise PluginError where a metric has no finite value."""
    for name in names:
        value = measure_own(name, seen)
        if not math.isfinite(value):
            raise PluginError(f"metric `{name}`: expected a finite number for real examples, got {value}")
