"""Several processes that train one trial together, each on its share of every batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed.nn.functional  # before there is a group: its functions keep the one they find, for good
from torch import Tensor, distributed


@dataclass(frozen=True, slots=True)
class World:
    """This process's rank and the number of processes; with one, every method leaves things as they are.

    With several, torch.distributed's default group must have been set up, and all of them call the same methods in
    the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process measures, judges and writes."""
        return self.rank == 0

    def purpose(self, name: str) -> tuple[str | int, ...]:
        """What a stream of randomness is for; a stream of its own for each process."""
        return (name, self.rank) if self.rank else (name,)

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace floating-point tensors, in place, by their means over all processes; one exchange for all of them."""
        chosen = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.size == 1 or not chosen:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in chosen])
        distributed.all_reduce(flat)
        flat /= self.size
        means = torch.split(flat, [tensor.numel() for tensor in chosen])
        for tensor, mean in zip(chosen, means, strict=True):
            tensor.copy_(mean.reshape(tensor.shape))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, by rank; of one shape and type."""
        if self.size == 1:
            return [tensor]
        device = _meeting_place()
        found = [torch.empty_like(tensor, device=device) for _ in range(self.size)]
        distributed.all_gather(found, tensor.to(device))
        return [item.to(tensor.device) for item in found]

    def agree(self, values: Sequence[float]) -> list[float]:
        """The leader's numbers, told to all."""
        if self.size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=_meeting_place())
        distributed.broadcast(told, 0)
        found: list[float] = told.tolist()
        return found


ALONE = World()


def _meeting_place() -> torch.device:
    """Where tensors must lie to be exchanged."""
    on_gpu = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
