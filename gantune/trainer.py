"""The adversarial step. Knows no disk, no Ray and no search; usable in a plain loop.

trainer = GANTrainer(config, ImageShape(1, 16), torch.device("cpu"))
while trainer.samples_seen < config.samples:
    trainer.step(batches.draw)
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gantune import plugins
from gantune.config import Component, TrialConfig, derive_seed
from gantune.errors import CheckpointError, GantuneError, PluginError
from gantune.losses import Game
from gantune.models.networks import ImageShape, Networks
from gantune.optimizers import Build
from gantune.penalties import gradient_penalty, zero_centred

EMA_RAMP = 0.05  # the half-life is at most this share of the samples seen so far. Karras et al. 2020, StyleGAN2-ADA
SIGNALS = ("loss_d", "loss_g", "logit_real", "logit_fake", "d_accuracy", "penalty")


class GANTrainer:
    """Two networks, their optimizers, the averaged generator and the streams of randomness of one trial."""

    def __init__(self, config: TrialConfig, shape: ImageShape, device: torch.device) -> None:
        self.config = config
        self.shape = shape
        self.device = device
        self.samples_seen = 0

        networks = build_networks(config.architecture, shape, derive_seed(config.seed, "weights"))
        self.z_dim = networks.z_dim
        self.generator = networks.generator.to(device).train()
        self.discriminator = networks.discriminator.to(device).train()
        self.ema_generator = copy.deepcopy(self.generator).eval().requires_grad_(False)

        self.game: Game = _build("loss", config.loss)
        if not isinstance(self.game, Game):
            raise PluginError(f"loss `{config.loss.name}` must return a Game, got {type(self.game).__name__}")
        build_g: Build = _build("optimizer", config.optimizer)
        build_d: Build = _build("optimizer", config.optimizer_d) if config.optimizer_d else build_g
        self.optimizer_g = build_g(self.generator.parameters(), config.lr_g)
        self.optimizer_d = build_d(self.discriminator.parameters(), config.lr_d)

        self.noise = torch.Generator(device).manual_seed(derive_seed(config.seed, "noise"))
        self.mixing = torch.Generator(device).manual_seed(derive_seed(config.seed, "mixing"))
        self._sums = torch.zeros(len(SIGNALS), device=device)
        self._steps = 0

    def step(self, draw_real: Callable[[int], Tensor]) -> None:
        """One generator step after `d_steps` discriminator steps. Never waits for the device.

        draw_real: count -> pictures [count, C, S, S] in [-1, 1] on the device.
        """
        batch, game = self.config.batch_size, self.game

        # Train the discriminator on real pictures against detached fakes.
        self.discriminator.requires_grad_(True)
        for _ in range(game.d_steps):
            real = draw_real(batch)
            with torch.no_grad():
                fake = self.generator(self._latents(batch))
            if game.r1:
                real.requires_grad_(True)
            logits_real = self.discriminator(real)  # [B]
            logits_fake = self.discriminator(fake)  # [B]
            loss_d = game.d_loss(logits_real, logits_fake).mean()
            penalty = torch.zeros((), device=self.device)
            if game.gp_weight:
                slopes = gradient_penalty(self.discriminator, real, fake, self.mixing)
                penalty = penalty + game.gp_weight * slopes.mean()
            if game.r1:
                penalty = penalty + game.r1 * zero_centred(logits_real, real).mean()
            self.optimizer_d.zero_grad(set_to_none=True)
            (loss_d + penalty).backward()  # type: ignore[no-untyped-call]
            self.optimizer_d.step()
            if game.clip:
                with torch.no_grad():
                    for weight in self.discriminator.parameters():
                        weight.clamp_(-game.clip, game.clip)
            self.samples_seen += batch

        # Train the generator through a frozen discriminator.
        self.discriminator.requires_grad_(False)
        loss_g = game.g_loss(self.discriminator(self.generator(self._latents(batch)))).mean()
        self.optimizer_g.zero_grad(set_to_none=True)
        loss_g.backward()  # type: ignore[no-untyped-call]
        self.optimizer_g.step()
        self._average(batch * game.d_steps)

        # Add up the signals on the device.
        with torch.no_grad():
            accuracy = 0.5 * ((logits_real > 0).float().mean() + (logits_fake < 0).float().mean())
            means = (loss_d, loss_g, logits_real.mean(), logits_fake.mean(), accuracy, penalty)
            self._sums += torch.stack([value.detach() for value in means])
            self._steps += 1

    def _latents(self, count: int) -> Tensor:
        return torch.randn(count, self.z_dim, generator=self.noise, device=self.device)

    @torch.no_grad()
    def _average(self, samples: int) -> None:
        """Move the averaged generator: beta = 0.5^(samples / half-life). Buffers are copied, not averaged."""
        halflife = min(float(self.config.ema_halflife_samples), EMA_RAMP * self.samples_seen)
        beta = 0.5 ** (samples / halflife) if halflife > 0 else 0.0
        for averaged, weight in zip(self.ema_generator.parameters(), self.generator.parameters(), strict=True):
            averaged.lerp_(weight, 1 - beta)
        for kept, buffer in zip(self.ema_generator.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(buffer)

    def finite(self) -> bool:
        """Whether all losses and logits so far, and the weights, are finite. Waits for the device."""
        total = self._sums.sum()
        for network in (self.generator, self.discriminator):
            total = total + torch.stack([weight.detach().sum() for weight in network.parameters()]).sum()
        return bool(torch.isfinite(total))

    def take_signals(self) -> dict[str, float]:
        """Means over the steps since the last call, and the generator's last gradient norm. Waits for the device."""
        means = (self._sums / max(1, self._steps)).tolist()
        self._sums.zero_()
        self._steps = 0
        gradients = [weight.grad.norm() for weight in self.generator.parameters() if weight.grad is not None]
        norm = float(torch.stack(gradients).norm()) if gradients else 0.0
        return {**dict(zip(SIGNALS, means, strict=True)), "g_gradient": norm}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name; on the CPU and safe to keep."""
        found: dict[str, Tensor] = {
            "rng.noise": self.noise.get_state(),
            "rng.mixing": self.mixing.get_state(),
            "sums": self._sums,
            "counters": torch.tensor([self.samples_seen, self._steps]),
        }
        for prefix, network in self._networks().items():
            found.update({f"{prefix}.{name}": value for name, value in network.state_dict().items()})
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
            for prefix, network in self._networks().items():
                network.load_state_dict(_below(state, prefix))
            for prefix, optimizer in self._optimizers().items():
                slots: dict[int, dict[str, Tensor]] = {}
                for name, value in _below(state, prefix).items():
                    index, _, slot = name.partition(".")
                    slots.setdefault(int(index), {})[slot] = value.clone()
                groups = optimizer.state_dict()["param_groups"]  # rates in force, never those of the file
                optimizer.load_state_dict({"state": slots, "param_groups": groups})
            self.noise.set_state(state["rng.noise"])
            self.mixing.set_state(state["rng.mixing"])
            self._sums.copy_(state["sums"])
            self.samples_seen, self._steps = (int(value) for value in state["counters"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the state does not fit this configuration: {error}") from error

    def _networks(self) -> dict[str, nn.Module]:
        return {"g": self.generator, "d": self.discriminator, "ema": self.ema_generator}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"opt_g": self.optimizer_g, "opt_d": self.optimizer_d}


def choose_device(name: str = "auto") -> torch.device:
    """The device called `cpu`, `cuda` or `auto` (a GPU where there is one). Raises GantuneError where it is missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise GantuneError("device cuda: torch sees no GPU on this machine; use cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def build_networks(architecture: Component, shape: ImageShape, seed: int) -> Networks:
    """Build and initialise an architecture's networks from a seed. Raises PluginError where it cannot be built."""
    factory = plugins.resolve("architecture", architecture.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            built = factory(shape, **dict(architecture.options))
        except (TypeError, ValueError, RuntimeError) as error:
            raise PluginError(
                f"architecture `{architecture.name}` cannot be built for {shape.channels}x{shape.size}x{shape.size}: "
                f"{error}"
            ) from error
    if not isinstance(built, Networks):
        raise PluginError(f"architecture `{architecture.name}` must return Networks, got {type(built).__name__}")
    return built


def _build(kind: str, component: Component) -> Any:
    try:
        return plugins.resolve(kind, component.name)(**dict(component.options))
    except (TypeError, ValueError, RuntimeError) as error:
        raise PluginError(f"{kind} `{component.name}` cannot be built: {error}") from error


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
