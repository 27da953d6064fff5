"""Take a trained generator out of its run: weights, configuration and a picture, and draw from it again."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from gantune.building import build_networks
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.config import Component
from gantune.errors import CheckpointError, GantuneError, PluginError
from gantune.metrics.reference import LATENT_SEED, sample
from gantune.models.networks import shape_of
from gantune.pictures import enough, save_samples
from gantune.writing import dump

WEIGHTS = "generator.safetensors"


@dataclass(frozen=True, slots=True)
class Generator:
    """An averaged generator in eval mode, and what its file says of it."""

    net: nn.Module
    z_dim: int
    class_counts: tuple[int, ...]
    meta: dict[str, Any]

    def draw(self, count: int, seed: int = LATENT_SEED) -> npt.NDArray[Any]:
        """`count` pictures, uint8 [count, C, S, S], or points, float32 [count, D]; the same seed draws the same.

        Labels are drawn in the real data's proportions. Raises CheckpointError where a sample is not finite.
        """
        samples = sample(self.net, self.z_dim, count, torch.device("cpu"), seed, self.class_counts)
        if samples is None:
            raise CheckpointError("the generator's samples are not finite")
        drawn: npt.NDArray[Any] = samples.numpy()
        return drawn

    def save_picture(self, path: Path) -> None:
        """Write what people look at: a grid of 64 pictures, or a cloud of points. Raises GantuneError."""
        save_samples(self.draw(enough(self.meta["dims"])), path)


def load_generator(path: Path) -> Generator:
    """A generator from a checkpoint, or from an export's directory.

    Raises CheckpointError where the file is missing, damaged or does not fit its own configuration.
    """
    if path.is_dir():
        path = path / WEIGHTS
    tensors, meta = read_checkpoint(path, "generator")
    try:
        ((name, options),) = meta["config"]["space"]["architecture"].items()
        counts = tuple(meta["class_counts"])
        shape = shape_of(meta["dims"], len(counts))
        networks = build_networks(Component(name=name, options=tuple(options.items())), shape, seed=0)
        networks.generator.load_state_dict(tensors)
        z_dim = int(meta["z_dim"])
    except (KeyError, TypeError, ValueError, RuntimeError, PluginError) as error:
        raise CheckpointError(f"{path}: its weights do not fit its configuration: {error}") from error
    return Generator(networks.generator.eval().requires_grad_(False), z_dim, counts, meta)


def export(checkpoint: Path, folder: Path) -> None:
    """Write generator.safetensors, config.yaml and samples.png. Raises GantuneError where that is not possible."""
    generator = load_generator(checkpoint)
    write_checkpoint(folder / WEIGHTS, "generator", generator.net.state_dict(), generator.meta)
    partial = folder / ".config.yaml.partial"
    try:
        partial.write_text(dump(generator.meta["config"]), encoding="utf-8")
        os.replace(partial, folder / "config.yaml")
    except OSError as error:
        raise GantuneError(f"{folder}: cannot be written: {error.strerror or error}") from error
    generator.save_picture(folder / "samples.png")
