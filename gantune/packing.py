"""How many trials a machine holds: as many on a GPU as its memory has room for, and the threads that pay on CPUs."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gantune.building import build_networks
from gantune.config import TrialConfig
from gantune.data.data_set import BatchSource, DataSet
from gantune.domains import FixedDraw, RandomDraw
from gantune.errors import SpecError
from gantune.metrics.reference import Reference
from gantune.models.networks import Shape
from gantune.pace import seconds_a_sample
from gantune.space import SearchSpace
from gantune.threads import on_threads
from gantune.trainer import GANTrainer

FILLED = 0.9  # of a GPU's memory, at most
CONTEXT = 2**30  # bytes, at most, that a process takes of a GPU besides its tensors; what is more belongs to others
STEPS = 4
DRAWN, DRAWS = 24, 1000  # configurations that are looked at, and draws to find them
TIMED = 3
GAIN = 1.05  # by which more threads must be better: less is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one trial occupies, settled, all of it on one machine; `cpus` is its count of threads, too.

    A trial on several GPUs has a process for each. `accelerator` is the type of GPU that it needs, if any.
    """

    cpus: float
    gpus: float
    accelerator: str | None = None

    @property
    def processes(self) -> int:
        """How many processes train it together."""
        return int(self.gpus) if self.gpus > 1 else 1

    @property
    def threads(self) -> int:
        """How many threads each of them computes with."""
        return max(1, int(self.cpus / self.processes))

    def bundles(self, *, alone: bool = False) -> list[dict[str, float]]:
        """Ray's resources for each process; `alone` has a GPU to itself."""
        gpus = max(self.gpus, 1.0) if alone and self.gpus else self.gpus
        each = {"CPU": self.cpus / self.processes, "GPU": gpus / self.processes}
        return [each | needed_of(self.accelerator) for _ in range(self.processes)]

    @property
    def wanted(self) -> dict[str, float]:
        """All that the machine must have that is to hold it."""
        return {"CPU": self.cpus, "GPU": self.gpus} | needed_of(self.accelerator)


def needed_of(accelerator: str | None) -> dict[str, float]:
    """What Ray calls a machine with GPUs of some type, of which it has one."""
    return {f"accelerator_type:{accelerator}": 0.001} if accelerator else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a GPU: what the largest trial measured takes, what there is for trials, and all that it has."""

    needed: int
    room: int
    total: int

    @property
    def trials(self) -> int:
        """How many trials fit, one at least."""
        return max(1, int(FILLED * self.room // self.needed))


def part(trials: int) -> float:
    """The part of a GPU that so many trials leave each other, never more than it has in Ray's four digits."""
    return math.floor(10_000 / trials) / 10_000


def examples(space: SearchSpace, count: int) -> list[TrialConfig]:
    """The given configurations, and random ones of a space. Raises SpecError where none can be trained."""
    configs = [space.draw(FixedDraw(values), seed=0) for values in space.given()]
    draws = (space.draw(RandomDraw(seed), seed=seed) for seed in range(DRAWS))
    fitting = (config for config in draws if space.conflict(config) is None)
    configs += itertools.islice(fitting, max(0, count - len(configs)))
    if not configs:
        raise SpecError(f"{space.name}: of {DRAWS} draws not one can be trained; see what its parts and rules forbid")
    return configs


def largest(configs: Sequence[TrialConfig], shape: Shape) -> list[TrialConfig]:
    """Those of the most parameters, and of the most parameters times batch: one of them takes the most memory."""
    weights = [_weights(config, shape) for config in configs]
    numbers = range(len(configs))
    by_weights = sorted(numbers, key=lambda at: weights[at])[-2:]
    by_batch = sorted(numbers, key=lambda at: weights[at] * configs[at].batch_size)[-2:]
    return [configs[at] for at in dict.fromkeys([*by_batch, *by_weights])]


def _weights(config: TrialConfig, shape: Shape) -> int:
    networks = build_networks(config.architecture, shape, seed=0)
    return sum(weight.numel() for net in (networks.generator, networks.discriminator) for weight in net.parameters())


def measure_memory(space: SearchSpace, images: DataSet, reference: Reference, device: torch.device) -> Memory:
    """Step the largest configurations on a GPU, and score them, one after the other as a worker does that is kept."""
    reference = reference.to(device)
    exhausted = False
    for config in largest(examples(space, DRAWN), images.shape):
        try:
            trainer = GANTrainer(config, images.shape, device)
            batches = BatchSource(images, device, seed=0)
            for _ in range(STEPS):
                trainer.step(batches.draw)
            counts = images.class_counts if trainer.conditional else ()
            samples = config.objective.samples.final
            reference.evaluate(trainer.ema_generator, trainer.z_dim, samples, class_counts=counts)
        except torch.OutOfMemoryError:
            exhausted = True  # its trial will say so
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    beside = max(0, total - free - torch.cuda.memory_reserved(device))
    context = min(beside, CONTEXT)
    needed = total if exhausted else torch.cuda.max_memory_reserved(device) + context
    return Memory(needed=needed, room=total - (beside - context), total=total)


def measure_threads(space: SearchSpace, images: DataSet, cpus: int) -> int:
    """The count of threads with which trials at once see the most samples on this machine."""
    configs = examples(space, TIMED)[:TIMED]

    def seconds(count: int) -> float:
        with on_threads(count):
            return sum(seconds_a_sample(config, images, torch.device("cpu")) for config in configs)

    return best_threads(seconds, cpus, space.budget.trials)


def best_threads(seconds: Callable[[int], float], cpus: int, trials: int) -> int:
    """Of 1, 2, 4 ... threads those by which trials at once see the most samples; of equals, the fewest.

    seconds: of a sample, by the count of threads. trials: no more run at once.
    """
    chosen, most = 1, 0.0
    for threads in itertools.takewhile(lambda count: count <= cpus, (2**power for power in itertools.count())):
        samples = min(trials, cpus // threads) / seconds(threads)
        if samples > GAIN * most:
            chosen, most = threads, samples
    return chosen
