"""The adversarial step. Knows no disk, no Ray and no search; usable in a plain loop.

trainer = GANTrainer(config, ImageShape(1, 16), torch.device("cpu"))
while trainer.samples_seen < config.samples:
    trainer.step(batches.draw)
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parametrize

from gantune.augmentation import Augmentation
from gantune.building import build_component, build_networks, build_optimizer, build_schedule
from gantune.config import TrialConfig, derive_seed
from gantune.data.data_set import Batch
from gantune.errors import CheckpointError, GantuneError
from gantune.losses import Game
from gantune.models.networks import Shape
from gantune.penalties import Judged, Penalty
from gantune.rates import Rates
from gantune.schedules import Schedule
from gantune.world import ALONE, World

EMA_RAMP = 0.05  # the half-life is at most this share of the samples seen so far. Karras et al. 2020, StyleGAN2-ADA
SCHEDULES = ("lr", "beta", "penalty")
SIGNALS = ("loss_d", "loss_g", "logit_real", "logit_fake", "d_accuracy", "penalty")


class GANTrainer:
    """Two networks, their optimizers, the averaged generator and the streams of randomness of one trial.

    In a `world` of several processes each takes an equal share of every batch, and gradients are averaged. Raises
    PluginError where a component cannot be built or does not keep its contract, GantuneError where a batch cannot be
    shared out.
    """

    def __init__(self, config: TrialConfig, shape: Shape, device: torch.device, world: World = ALONE) -> None:
        if config.batch_size % world.size:
            raise GantuneError(f"batch_size {config.batch_size} cannot be shared by {world.size} processes")
        self.config = config
        self.shape = shape
        self.device = device
        self.world = world
        self._share = config.batch_size // world.size
        self.samples_seen = 0
        self.d_steps_taken = 0

        networks = build_networks(config.architecture, shape, derive_seed(config.seed, "weights"))
        self.z_dim = networks.z_dim
        self.conditional = networks.conditional
        self.generator = _placed(networks.generator, device).train()
        self.discriminator = _placed(networks.discriminator, device).train()
        self.ema_generator = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self._weights_g: list[Tensor] = list(self.generator.parameters())
        self._weights_d: list[Tensor] = list(self.discriminator.parameters())

        self.game: Game = build_component("loss", config.loss, Game)
        own = self.game.penalty
        chosen: Penalty | None = build_component("penalty", config.penalty, Penalty | None)
        regularizer: Penalty | None = build_component("regularizer", config.regularizer, Penalty | None)
        terms = {"game": own, "penalty": chosen, "regularizer": regularizer}
        self.terms = {name: term.to(device) for name, term in terms.items() if term is not None}
        augmentation: Augmentation | None = build_component("augmentation", config.augmentation, Augmentation | None)
        self.augmentation = augmentation.to(device) if augmentation is not None else None

        self.optimizer_g = build_optimizer(config.optimizer, self._weights_g, config.lr_g)
        self.optimizer_d = build_optimizer(config.optimizer_d or config.optimizer, self._weights_d, config.lr_d)
        self.rates_g = Rates(self.optimizer_g)
        self.rates_d = Rates(self.optimizer_d, lazy=max([1, *(term.every for term in self.terms.values())]))
        self.schedules: dict[str, Schedule] = {
            name: build_schedule(getattr(config, f"{name}_schedule")) for name in SCHEDULES
        }

        self.noise, self.mixing, self.augmenting = (
            torch.Generator(device).manual_seed(derive_seed(config.seed, *world.purpose(name)))
            for name in ("noise", "mixing", "augmenting")
        )
        self.half = half_precision(config.precision, device)
        self._sums = torch.zeros(len(SIGNALS), device=device)
        self._steps = 0
        self._steer()

    def step(self, draw: Callable[[int], Batch]) -> None:
        """One generator step after `d_steps` discriminator steps. Never waits for the device.

        draw: count -> a batch of that many real samples on the device, of its own in each process.
        """
        penalty_factor = self._steer()
        for remaining in reversed(range(self.game.d_steps)):
            batch = draw(self._share)
            labels = (batch.labels,) if self.conditional else ()
            fake = self._draw_fakes(self._latents(), labels, last=remaining == 0)
            told = self._train_discriminator(batch.samples, fake.detach(), labels, penalty_factor)
        loss_g = self._train_generator(fake, batch.samples, labels)
        if self.world.size > 1:
            self.world.average(buffer for module in self._modules().values() for buffer in module.buffers())
        self._average(self.config.batch_size * self.game.d_steps)
        with torch.no_grad():
            self._sums += torch.stack([value.detach().float() for value in (told[0], loss_g, *told[1:])])
            self._steps += 1

    def _draw_fakes(self, latents: Tensor, labels: tuple[Tensor | None, ...], *, last: bool) -> Tensor:
        """Fakes for a discriminator step; the generator learns from the last ones, whose graph is kept."""
        with torch.set_grad_enabled(last), self._fast():
            fake: Tensor = self.generator(latents, *labels)
        return fake

    def _train_discriminator(
        self, samples: Tensor, fake: Tensor, labels: tuple[Tensor | None, ...], penalty_factor: float
    ) -> tuple[Tensor, ...]:
        """One step on real samples against detached fakes; the mean loss, logits, accuracy and penalty."""
        self.discriminator.requires_grad_(True)

        # Show both sides through the same transforms.
        real, fake = self._seen(samples).detach(), self._seen(fake.float()).detach()
        loss, penalty, logits_real, logits_fake = self._judge(real, fake, labels, self._terms_due(penalty_factor))

        # Descend the sum in one step.
        self.optimizer_d.zero_grad(set_to_none=True)
        (loss + penalty).backward()  # type: ignore[no-untyped-call]
        accuracy = self._move_discriminator(logits_real, logits_fake)
        return loss, logits_real.mean(), logits_fake.mean(), accuracy, penalty

    def _judge(
        self, real: Tensor, fake: Tensor, labels: tuple[Tensor | None, ...], terms: Mapping[Penalty, float]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The discriminator's mean loss and penalty on what it sees, and its logits, [B] each."""
        slopes = frozenset[str]().union(*(term.slopes_of for term in terms))
        real.requires_grad_("real" in slopes)
        fake.requires_grad_("fake" in slopes)

        # Judge both, once; spectral norms move once a step.
        with parametrize.cached():
            with self._fast():
                logits_real = self.discriminator(real, *labels)  # [B]
                logits_fake = self.discriminator(fake, *labels)  # [B]
            logits_real, logits_fake = logits_real.float(), logits_fake.float()
            loss = self.game.d_loss(logits_real, logits_fake).mean()

            # Add the penalties that are due, in float32 at all times.
            penalty = torch.zeros((), device=self.device)
            if terms:
                exact = any(term.exact or term.slopes_of for term in terms)
                judged = self._judged(real, fake, labels, logits_real, logits_fake, exact=exact)
                for term, weight in terms.items():
                    penalty = penalty + weight * term(judged).mean()
        return loss, penalty, logits_real, logits_fake

    def _move_discriminator(self, logits_real: Tensor, logits_fake: Tensor) -> Tensor:
        """The discriminator's step by its gradients, and what follows from the whole batch's logits; their accuracy."""
        game = self.game
        self.world.average(weight.grad for weight in self._weights_d if weight.grad is not None)
        if self.config.grad_clip:
            clip_grad_norm_(self._weights_d, self.config.grad_clip, foreach=True)
        self.optimizer_d.step()
        with torch.no_grad():
            if game.clip:
                torch._foreach_clamp_min_(self._weights_d, -game.clip)
                torch._foreach_clamp_max_(self._weights_d, game.clip)
            if self.augmentation is not None:
                signs = (logits_real - logits_fake if game.shift_invariant else logits_real).sign()
                self.augmentation.observe(torch.cat(self.world.gather(signs)), self.d_steps_taken)
            accuracy = _accuracy(game, logits_real, logits_fake)
        self.samples_seen += self.config.batch_size
        self.d_steps_taken += 1
        return accuracy

    def _train_generator(self, fake: Tensor, samples: Tensor, labels: tuple[Tensor | None, ...]) -> Tensor:
        """One step by the gradient of `fake`, through a frozen discriminator; the mean loss."""
        self.discriminator.requires_grad_(False)
        loss = self._challenge(fake, samples, labels)
        self.optimizer_g.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._move_generator()
        return loss

    def _challenge(self, fake: Tensor, samples: Tensor, labels: tuple[Tensor | None, ...]) -> Tensor:
        """The generator's mean loss on its fakes."""
        with parametrize.cached(), self._fast():
            logits = self.discriminator(self._seen(fake), *labels).float()
            if self.game.paired:  # the reals' logits are constant here, but the loss is of the distance to them
                with torch.no_grad():
                    against = self.discriminator(self._seen(samples), *labels).float()
        return (self.game.g_loss(logits, against) if self.game.paired else self.game.g_loss(logits)).mean()

    def _move_generator(self) -> None:
        self.world.average(weight.grad for weight in self._weights_g if weight.grad is not None)
        if self.config.grad_clip:
            clip_grad_norm_(self._weights_g, self.config.grad_clip, foreach=True)
        self.optimizer_g.step()

    def _steer(self) -> float:
        """Put the rates of this point of the budget in force; the penalties' factor."""
        factors = self._factors = self.factors()
        for rates in (self.rates_g, self.rates_d):
            rates.apply(factors["lr"], factors["beta"])
        return factors["penalty"]

    def factors(self) -> dict[str, float]:
        """What the schedules (lr, beta, penalty) give at this point of the budget; `lr` with its warm-up."""
        share = self.samples_seen / self.config.samples
        found = {name: schedule(share) for name, schedule in self.schedules.items()}
        if self.config.lr_warmup:
            reached = (self.samples_seen + self.config.batch_size) / self.config.samples  # the first step moves, too
            found["lr"] *= min(1.0, reached / self.config.lr_warmup)
        return found

    def rates_in_force(self) -> dict[str, float]:
        """The learning rates of the last step as the optimizers have them.

        Beside each its factor: what schedules, warm-up and lazy penalties make of the configuration's rate.
        """
        found = {}
        for network, rates in (("g", self.rates_g), ("d", self.rates_d)):
            found[f"lr_{network}"] = rates.in_force()[0]["lr"]
            found[f"lr_factor_{network}"] = rates.due({"lr": 1.0}, self._factors["lr"], self._factors["beta"])["lr"]
        return found

    def _terms_due(self, penalty_factor: float) -> dict[Penalty, float]:
        """The terms of this step and their weights; a lazy one weighs as much as the steps it stands for."""
        factors = {"regularizer": 1.0}
        return {
            term: term.weight * term.every * factors.get(name, penalty_factor)
            for name, term in self.terms.items()
            if self.d_steps_taken % term.every == 0
        }

    def _judged(
        self, real: Tensor, fake: Tensor, labels: tuple[Tensor | None, ...], *logits: Tensor, exact: bool
    ) -> Judged:
        """What the terms see. `exact` asks for logits that are differentiable in float32."""
        with torch.autocast(self.device.type, enabled=False):
            if self.half and exact:
                logits = (self.discriminator(real, *labels), self.discriminator(fake, *labels))
        return Judged(
            judge=lambda seen: self.discriminator(seen, *labels),
            real=real,
            fake=fake,
            logits_real=logits[0],
            logits_fake=logits[1],
            generator=self.mixing,
        )

    def _seen(self, samples: Tensor) -> Tensor:
        return samples if self.augmentation is None else self.augmentation(samples, self.augmenting)

    def _fast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def _latents(self) -> Tensor:
        return torch.randn(self._share, self.z_dim, generator=self.noise, device=self.device)

    @torch.no_grad()
    def _average(self, samples: int) -> None:
        """Move the averaged generator: beta = 0.5^(samples / half-life). Buffers are copied, not averaged."""
        halflife = min(float(self.config.ema_halflife_samples), EMA_RAMP * self.samples_seen)
        beta = 0.5 ** (samples / halflife) if halflife > 0 else 0.0
        torch._foreach_lerp_(list(self.ema_generator.parameters()), self._weights_g, 1 - beta)
        for kept, buffer in zip(self.ema_generator.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(buffer)

    def finite(self) -> bool:
        """Whether all losses and logits so far, and the weights, are finite. Waits for the device."""
        total = self._sums.sum()
        for network in (self.generator, self.discriminator):
            total = total + torch.stack([weight.detach().sum() for weight in network.parameters()]).sum()
        self.world.average([total])
        return bool(torch.isfinite(total))

    def take_signals(self) -> dict[str, float]:
        """Means over the steps since the last call, and the generator's last gradient norm. Waits for the device."""
        self.world.average([self._sums])
        means = (self._sums / max(1, self._steps)).tolist()
        self._sums.zero_()
        self._steps = 0
        gradients = [weight.grad.norm() for weight in self.generator.parameters() if weight.grad is not None]
        norm = float(torch.stack(gradients).norm()) if gradients else 0.0
        return {**dict(zip(SIGNALS, means, strict=True)), "g_gradient": norm}

    def streams(self) -> dict[str, Tensor]:
        """The states of this process's streams of randomness, by name."""
        return {
            "rng.noise": self.noise.get_state(),
            "rng.mixing": self.mixing.get_state(),
            "rng.augmenting": self.augmenting.get_state(),
        }

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name; on the CPU and safe to keep."""
        found: dict[str, Tensor] = {
            **self.streams(),
            "sums": self._sums,
            "counters": torch.tensor([self.samples_seen, self._steps, self.d_steps_taken]),
        }
        for prefix, module in self._modules().items():
            found.update({f"{prefix}.{name}": value for name, value in module.state_dict().items()})
        for prefix, optimizer in self._optimizers().items():
            for index, slots in optimizer.state_dict()["state"].items():
                for slot, value in slots.items():
                    if value is not None:
                        found[f"{prefix}.{index}.{slot}"] = torch.as_tensor(value)
        return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`, which a trainer of the same components saved. Rates and betas stay the own ones.

        Raises CheckpointError where the state belongs to another architecture.
        """
        try:
            for prefix, module in self._modules().items():
                module.load_state_dict(_below(state, prefix))
            for prefix, optimizer in self._optimizers().items():
                weights = [weight for group in optimizer.param_groups for weight in group["params"]]
                slots: dict[int, dict[str, Tensor]] = {}
                for name, value in _below(state, prefix).items():
                    index, _, slot = name.partition(".")
                    slots.setdefault(int(index), {})[slot] = _laid_out_as(weights[int(index)], value)
                groups = optimizer.state_dict()["param_groups"]  # rates in force, never those of the file
                optimizer.load_state_dict({"state": slots, "param_groups": groups})
            self.noise.set_state(state["rng.noise"])
            self.mixing.set_state(state["rng.mixing"])
            self.augmenting.set_state(state["rng.augmenting"])
            self._sums.copy_(state["sums"])
            self.samples_seen, self._steps, self.d_steps_taken = (int(value) for value in state["counters"])
            self._steer()
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the state does not fit this configuration: {error}") from error

    def _modules(self) -> dict[str, nn.Module]:
        networks = {"g": self.generator, "d": self.discriminator, "ema": self.ema_generator}
        extra = {} if self.augmentation is None else {"augmentation": self.augmentation}
        return {**networks, **{f"term_{name}": term for name, term in self.terms.items()}, **extra}

    def components(self) -> dict[str, object]:
        """What was built for the parameters that hold a component, beside networks, optimizers and schedules."""
        built: dict[str, object] = {"loss": self.game, "augmentation": self.augmentation}
        return built | {name: self.terms[name] for name in ("penalty", "regularizer") if name in self.terms}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"opt_g": self.optimizer_g, "opt_d": self.optimizer_d}


def choose_device(name: str = "auto") -> torch.device:
    """The device called `cpu`, `cuda` or `auto` (a GPU where there is one). Raises GantuneError where it is missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise GantuneError("device cuda: torch sees no GPU on this machine; use cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def half_precision(precision: str, device: torch.device) -> bool:
    """Whether networks run in bfloat16: where asked for, and by `auto` on a GPU that has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    """On the device, with the weights of convolutions in the memory order in which they are fastest."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _accuracy(game: Game, real: Tensor, fake: Tensor) -> Tensor:
    """Share of samples on the right side of 0; in a shift-invariant game, of reals above their fakes."""
    if game.shift_invariant:
        return (real > fake).float().mean()
    return 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    """A copy of an optimizer's slot; in the memory order of its weight, which fused kernels rely on."""
    return torch.empty_like(weight, dtype=value.dtype).copy_(value) if value.shape == weight.shape else value.clone()


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
