"""A trained generator out of its checkpoint, its export or its run, and samples of it."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from gantune.building import build_networks
from gantune.checkpoint import read_checkpoint
from gantune.config import Component
from gantune.data.data_set import quantise
from gantune.errors import CheckpointError, PluginError, RunError, SpecError
from gantune.export.alone import CHUNK, label, latents
from gantune.metrics.reference import LATENT_SEED, Samples
from gantune.models.networks import shape_of
from gantune.pictures import enough, save_samples
from gantune.run import Run
from gantune.storage import Place, is_uri

WEIGHTS = "generator.safetensors"
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Generator:
    """An averaged generator in eval mode, and what its file says of it."""

    net: nn.Module
    z_dim: int
    class_counts: tuple[int, ...]
    meta: dict[str, Any]
    device: torch.device = CPU

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of one sample: (C, S, S), or (D,)."""
        return tuple(self.meta["dims"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called; empty where that is not known, or where there are none."""
        names, count = tuple(map(str, self.meta.get("class_names", ()))), len(self.class_counts)
        return names[:count] if len(names) >= count else ()

    def to(self, device: torch.device) -> "Generator":
        """The same generator on a device."""
        return replace(self, net=self.net.to(device), device=device)

    def class_of(self, name: str) -> int:
        """A class by its number or name. Raises SpecError for one there is not."""
        try:
            return label(name, {"class_names": self.class_names, "class_counts": self.class_counts})
        except ValueError as error:
            raise SpecError(f"class: {error}") from error

    def stream(
        self,
        count: int,
        seed: int = LATENT_SEED,
        *,
        classes: Sequence[int] = (),
        truncation: float | None = None,
    ) -> Iterator[Samples]:
        """What `draw` gives, some hundreds at a time, with the labels."""
        for given in latents(count, self.z_dim, seed, self.class_counts, classes, truncation):
            yield self._of(*given)

    def draw(
        self,
        count: int,
        seed: int = LATENT_SEED,
        *,
        classes: Sequence[int] = (),
        truncation: float | None = None,
    ) -> npt.NDArray[Any]:
        """`count` pictures, uint8 [count, C, S, S], or points, float32 [count, D]; the same seed draws the same.

        Labels are drawn in the real data's proportions, or go through `classes` in turn. truncation: latents come
        from the normal distribution between -truncation and truncation. Raises CheckpointError where a sample is not
        finite.
        """
        drawn = [samples.examples for samples in self.stream(count, seed, classes=classes, truncation=truncation)]
        found: npt.NDArray[Any] = torch.cat(drawn).numpy()
        return found

    def walk(
        self,
        count: int,
        steps: int,
        seed: int = LATENT_SEED,
        *,
        classes: Sequence[int] = (),
        truncation: float | None = None,
    ) -> Iterator[Samples]:
        """`count` pictures on a closed way through latents, `steps` from each to the next, on arcs of circles.

        All are of one class, the first that is drawn; of several `classes` each has the pictures from one latent to
        the next in turn.
        """
        stops = max(2, math.ceil(count / steps))
        given = latents(stops, self.z_dim, seed, self.class_counts, classes, truncation)
        places, *labels = (torch.cat(values) for values in zip(*given, strict=True))
        for start in range(0, count, CHUNK):
            index = torch.arange(start, min(start + CHUNK, count))
            at = index // steps
            drawn = arc(places[at], places[(at + 1) % stops], index % steps / steps)
            yield self._of(drawn, *(values[at] if classes else values[:1].expand(len(at)) for values in labels))

    @torch.no_grad()
    def _of(self, drawn: Tensor, *labels: Tensor) -> Samples:
        samples = self.net(*(values.to(self.device) for values in (drawn, *labels)))
        if not bool(torch.isfinite(samples).all()):
            raise CheckpointError("the generator's samples are not finite")
        return Samples(quantise(samples).cpu(), *labels)

    def save_picture(self, path: Path) -> None:
        """Write what people look at: a grid of 64 pictures, or a cloud of points. Raises GantuneError."""
        save_samples(self.draw(enough(self.dims)), path)


def arc(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Latents [N, z_dim] at shares [N] of the way from one to another. Shoemake 1985; White 2016, section 2.1."""
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=-1).clamp(-1, 1)
    angle = torch.acos(cosine).clamp_min(1e-4)[:, None]  # between parallel ones it is a line
    share = share[:, None]
    found: Tensor = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)
    return found


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


def open_generator(
    where: str | os.PathLike[str] | Run | None, runs: Path | Place = Path("runs"), trial: int | None = None
) -> Generator:
    """The generator of a checkpoint, of an export's folder, or of a run by path, name or URI.

    Of a run it is the best trial's, or that of a given one; of None that of the run last used. Raises CheckpointError
    where weights are damaged or were let go, RunError where nothing of that name is there, NoSurvivorError where there
    is no best trial, and where the given one has no score.
    """
    if where is not None and not isinstance(where, Run):
        text = os.fspath(where)
        path = Path(text)
        if not is_uri(text) and (path.is_file() or (path / WEIGHTS).is_file()):
            if trial is not None:
                raise SpecError(f"{path}: is one trial's weights; --trial belongs to a run")
            return load_generator(path)
        try:
            where = Run.open(text, runs)
        except RunError as error:
            raise RunError(f"{error}; nor is it a checkpoint or an export's folder") from error
    run = where if isinstance(where, Run) else Run.open(None, runs)
    found = run.best() if trial is None else run.scored(trial)
    return load_generator(run.weights(run.checkpoint(found, run.repeats())))
