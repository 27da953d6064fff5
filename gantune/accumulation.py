"""The adversarial step with little memory: a batch is worked through in chunks, and their gradients are added up."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gantune.config import TrialConfig
from gantune.models.networks import Shape
from gantune.trainer import GANTrainer
from gantune.world import ALONE, World

FEWEST_IN_CHUNK = 2  # batch statistics of one sample are none

Labels = tuple[Tensor | None, ...]


class AccumulatingTrainer(GANTrainer):
    """Takes the same steps in `micro_batches` chunks a batch, as equal as they can be.

    Gradients are those of the mean over the whole batch, and a chunk pairs the same reals and fakes. What a network or
    a penalty works out from a batch (batch norm, LeCam's averages) comes from each chunk; as between processes, every
    chunk begins with the same buffers, and their mean is kept. The generator works twice on the fakes that it learns
    from, for their graph is not kept while the discriminator learns.
    """

    def __init__(
        self, config: TrialConfig, shape: Shape, device: torch.device, world: World = ALONE, *, micro_batches: int
    ) -> None:
        super().__init__(config, shape, device, world)
        self.micro_batches = micro_batches

    def _draw_fakes(self, latents: Tensor, labels: Labels, *, last: bool) -> Tensor:
        self._latents_drawn = latents
        fakes = []
        with torch.no_grad(), self._fast(), _Shared([self.generator]) as shared:
            for (chunk, *own), share in self._chunks(latents, *labels):
                with shared.chunk(share):
                    fakes.append(self.generator(chunk, *own))
            if last:  # they are drawn again, and count then
                shared.forget()
        return torch.cat(fakes)

    def _train_discriminator(
        self, samples: Tensor, fake: Tensor, labels: Labels, penalty_factor: float
    ) -> tuple[Tensor, ...]:
        """See GANTrainer; loss, logits, accuracy and penalty are those of the whole batch."""
        terms = self._terms_due(penalty_factor)
        self.discriminator.requires_grad_(True)
        self.optimizer_d.zero_grad(set_to_none=True)
        real, fake = self._seen(samples).detach(), self._seen(fake.float()).detach()
        loss, penalty = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        logits: list[tuple[Tensor, Tensor]] = []
        with _Shared([self.discriminator, *terms]) as shared:
            for (real_part, fake_part, *own), share in self._chunks(real, fake, *labels):
                with shared.chunk(share):
                    of_chunk, its_penalty, *told = self._judge(
                        real_part.detach(), fake_part.detach(), tuple(own), terms
                    )
                    ((of_chunk + its_penalty) * share).backward()  # type: ignore[no-untyped-call]
                loss += share * of_chunk.detach()
                penalty += share * its_penalty.detach()
                logits.append((told[0].detach(), told[1].detach()))
        logits_real, logits_fake = (torch.cat(side) for side in zip(*logits, strict=True))
        accuracy = self._move_discriminator(logits_real, logits_fake)
        return loss, logits_real.mean(), logits_fake.mean(), accuracy, penalty

    def _train_generator(self, fake: Tensor, samples: Tensor, labels: Labels) -> Tensor:
        """See GANTrainer; `fake` is drawn again from the same latents, a chunk at a time."""
        self.discriminator.requires_grad_(False)
        self.optimizer_g.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        with _Shared([self.generator, self.discriminator]) as shared:
            for (latents, reals, *own), share in self._chunks(self._latents_drawn, samples, *labels):
                with shared.chunk(share):
                    with self._fast():
                        drawn = self.generator(latents, *own)
                    of_chunk = self._challenge(drawn, reals, tuple(own))
                    (of_chunk * share).backward()  # type: ignore[no-untyped-call]
                loss += share * of_chunk.detach()
        self._move_generator()
        return loss

    def _chunks(self, *whole: Tensor | None) -> Iterator[tuple[list[Tensor], float]]:
        """The parts of tensors that belong together, and their share of the batch."""
        parts = [[None] * self.micro_batches if one is None else one.tensor_split(self.micro_batches) for one in whole]
        for part in zip(*parts, strict=True):
            yield list(part), len(part[0]) / self._share


class _Shared:
    """Gives every chunk the buffers that the step began with, and leaves behind their mean over the chunks."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._buffers = [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]

    def __enter__(self) -> "_Shared":
        self._before = [buffer.clone() for buffer in self._buffers]
        self._mean = [torch.zeros_like(buffer) for buffer in self._buffers]
        return self

    @contextlib.contextmanager
    def chunk(self, share: float) -> Iterator[None]:
        """What is done to a chunk."""
        self._put(self._before)
        yield
        for mean, buffer in zip(self._mean, self._buffers, strict=True):
            mean += share * buffer

    def forget(self) -> None:
        """Leave the buffers as they were."""
        self._mean = self._before

    def __exit__(self, *error: object) -> None:
        self._put(self._mean)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer.copy_(value)


def fewer(micro_batches: int, batch_size: int) -> int | None:
    """Twice as many chunks, for a batch that did not fit; None where they would be too small."""
    return 2 * micro_batches if batch_size // (2 * micro_batches) >= FEWEST_IN_CHUNK else None
