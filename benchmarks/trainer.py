"""How fast one trial trains: images per second of GANTrainer against the loops that people write by hand.

    python benchmarks/trainer.py [--data cifar10.parquet] [--against torchgan] [--ablate]

All contestants train the same networks (the same factories, the same initial weights) on the same pictures with the
same batch size, device, threads and precision (float32). They take turns of about a second, for `--rounds` rounds in
one process; who begins moves on with every round. A ratio is gantune's images per second over the other's of the same
round: above 1 gantune is faster. Each cell is the median over the rounds and, in brackets, the least and the greatest.
Prints rows for RESULTS.md.

`tutorial` is the loop of PyTorch's DCGAN tutorial. What it does, and nothing is there to slow it down:

- a Dataset that holds decoded uint8 pictures, as torchvision's MNIST and CIFAR10 do, already of the right size; an item
  becomes a PIL image and passes ToTensor and Normalize
- DataLoader(shuffle=True, num_workers=0); an incomplete last batch is dropped, so that all batches have one size
- networks in PyTorch's default memory order, seams between Linear and convolutions included
- Adam with the arguments of the tutorial, in PyTorch's default form
- a step of D: zero_grad; reals forward, loss, backward; fakes forward, loss, backward; step
- a step of G on the same fakes, through a D that still collects gradients
- BCEWithLogits against a tensor of targets, or the hinge
- .item() of both losses and of the three mean logits in every step, for the log

Both draw their fakes once a step. It keeps no averaged generator, which gantune does.
`tensor` is the same loop with the pictures scaled once and held as one tensor: DataLoader over a TensorDataset. What is
between it and `tutorial` is the loading of data. `--against torchgan` adds torchgan.trainer.Trainer, fed as `tutorial`
is: all it does in a step, with its log but without TensorBoard, and without what it does at the end of an epoch.

`--ablate` instead takes one of gantune's own measures back at a time: ratios above 1 are what the measure brings.

`--clock cpu` counts seconds of CPU time instead of the clock's, for a machine that others use, too.

Without --data, the RGB pictures are smooth random ones of a fixed seed: what they show does not change the speed.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from gantune.building import build_networks
from gantune.config import (
    CollapseConfig,
    Component,
    DataConfig,
    ObjectiveConfig,
    Scalar,
    TrialConfig,
    derive_seed,
)
from gantune.data.data_set import Batch, BatchSource, DataSet, open_data, scale
from gantune.models.networks import FromMaps, Networks, ToMaps
from gantune.trainer import GANTrainer

Run = Callable[[int], None]  # trains that many steps
Make = Callable[[TrialConfig, DataSet, torch.device], Run]

RATE, BETAS = 2e-4, (0.5, 0.999)
WARM_UP = 10  # steps before anything is timed
SYNTHETIC = 10_000  # pictures


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: the pictures, the networks and their game."""

    picture: str
    architecture: Component
    loss: str = "non_saturating"
    batch: int = 64

    def config(self, optimizer: str = "adam") -> TrialConfig:
        """The trial that gantune trains, in float32 and without an end."""
        return TrialConfig(
            data=DataConfig(),
            objective=ObjectiveConfig(),
            collapse=CollapseConfig(),
            samples=10**9,
            target=None,
            seed=0,
            architecture=self.architecture,
            loss=Component(name=self.loss),
            optimizer=Component(name=optimizer),
            lr_g=RATE,
            batch_size=self.batch,
            precision="float32",
        )


def _component(name: str, **options: Scalar) -> Component:
    return Component(name=name, options=tuple(sorted(options.items())))


SETTINGS = {
    "mlp 16x16": Setting("digits", _component("mlp", hidden=256, depth=2)),
    "dcgan 16x16, width 24": Setting("digits", _component("dcgan", width=24)),
    "dcgan 32x32 RGB, width 32": Setting("rgb", _component("dcgan", width=32)),
    "dcgan 32x32 RGB, width 64": Setting("rgb", _component("dcgan", width=64)),
    "resnet 32x32 RGB, width 32": Setting("rgb", _component("resnet", width_g=32, width_d=32), loss="hinge"),
}


# ---- gantune


def gantune(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    """GANTrainer fed by BatchSource, as a trial runs it."""
    trainer = GANTrainer(config, data.shape, device)
    return _stepping(trainer, BatchSource(data, device, seed=0).draw)


def _stepping(trainer: GANTrainer, draw: Callable[[int], Batch], then: Callable[[], object] = lambda: None) -> Run:
    def run(steps: int) -> None:
        for _ in range(steps):
            trainer.step(draw)
            then()

    return run


# ---- the loops written by hand


class Pictures(Dataset[tuple[Tensor, int]]):
    """Decoded pictures, transformed item by item, as torchvision's own data sets do."""

    def __init__(self, data: DataSet, transform: Callable[[Image.Image], Tensor]) -> None:
        self.data = np.ascontiguousarray(data.examples.transpose(0, 2, 3, 1))  # [N, S, S, C]
        if self.data.shape[-1] == 1:
            self.data = self.data[..., 0]
        self.targets = _labels(data).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def tutorial(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    """The tutorial's loop, fed picture by picture."""
    return _by_hand(config, data, device, _picture_loader(config, data))


def tensor(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    """The tutorial's loop, fed from one tensor in memory."""
    return _by_hand(config, data, device, _tensor_loader(config, data))


def _labels(data: DataSet) -> Tensor:
    return torch.zeros(len(data.examples), dtype=torch.int64) if data.labels is None else torch.tensor(data.labels)


def _picture_loader(config: TrialConfig, data: DataSet) -> DataLoader[Any]:
    middle = (0.5,) * data.examples.shape[1]
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(middle, middle)])
    pictures = Pictures(data, transform)
    return DataLoader(pictures, batch_size=config.batch_size, shuffle=True, num_workers=0, drop_last=True)


def _tensor_loader(config: TrialConfig, data: DataSet) -> DataLoader[Any]:
    held = TensorDataset(scale(torch.tensor(np.asarray(data.examples))), _labels(data))
    return DataLoader(held, batch_size=config.batch_size, shuffle=True, num_workers=0, drop_last=True)


def _endless(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _networks(config: TrialConfig, data: DataSet) -> Networks:
    """The layers and weights that GANTrainer starts from, in PyTorch's default memory order."""
    networks = build_networks(config.architecture, data.shape, derive_seed(config.seed, "weights"))
    for network in (networks.generator, networks.discriminator):
        for name, module in list(network.named_modules()):
            if isinstance(module, ToMaps):
                network.set_submodule(name, nn.Unflatten(1, (module.channels, module.side, module.side)))
            elif isinstance(module, FromMaps):
                network.set_submodule(name, nn.Flatten())
    return networks


def _by_hand(config: TrialConfig, data: DataSet, device: torch.device, loader: DataLoader[Any]) -> Run:
    networks = _networks(config, data)
    net_g, net_d = networks.generator.to(device), networks.discriminator.to(device)
    optimizer_g = optim.Adam(net_g.parameters(), lr=RATE, betas=BETAS)
    optimizer_d = optim.Adam(net_d.parameters(), lr=RATE, betas=BETAS)
    bce = nn.BCEWithLogitsLoss()
    hinge = config.loss.name == "hinge"
    log: list[tuple[float, ...]] = []
    batches = _endless(loader)

    def run(steps: int) -> None:
        for _ in range(steps):
            real = next(batches)[0].to(device)
            label = torch.ones(len(real), device=device)

            net_d.zero_grad()
            output = net_d(real).view(-1)
            loss_real = nn.functional.relu(1 - output).mean() if hinge else bce(output, label)
            loss_real.backward()
            d_x = output.mean().item()

            noise = torch.randn(len(real), networks.z_dim, device=device)
            fake = net_g(noise)
            label.fill_(0)
            output = net_d(fake.detach()).view(-1)
            loss_fake = nn.functional.relu(1 + output).mean() if hinge else bce(output, label)
            loss_fake.backward()
            d_g_z1 = output.mean().item()
            loss_d = loss_real + loss_fake
            optimizer_d.step()

            net_g.zero_grad()
            label.fill_(1)
            output = net_d(fake).view(-1)
            loss_g = -output.mean() if hinge else bce(output, label)
            loss_g.backward()
            d_g_z2 = output.mean().item()
            optimizer_g.step()
            log.append((loss_d.item(), loss_g.item(), d_x, d_g_z1, d_g_z2))

    return run


# ---- another package


def torchgan(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    """The body of torchgan's `BaseTrainer.train`, without the end of its epochs."""
    os.environ.setdefault("TENSORBOARD_LOGGING", "0")  # off where tensorboardX is not installed
    from torchgan import losses, models
    from torchgan.trainer import Trainer

    networks = _networks(config, data)

    class Generator(models.Generator):
        def __init__(self) -> None:
            super().__init__(networks.z_dim)
            self.network = networks.generator

        def forward(self, latents: Tensor) -> Tensor:
            return self.network(latents)

    class Discriminator(models.Discriminator):
        def __init__(self) -> None:
            super().__init__(data.examples.shape[1])
            self.network = networks.discriminator

        def forward(self, pictures: Tensor) -> Tensor:
            return self.network(pictures)

    class HingeG(losses.GeneratorLoss):
        def forward(self, fake: Tensor) -> Tensor:
            return -fake.mean()

    class HingeD(losses.DiscriminatorLoss):
        def forward(self, real: Tensor, fake: Tensor) -> Tensor:
            return nn.functional.relu(1 - real).mean() + nn.functional.relu(1 + fake).mean()

    adam = {"name": optim.Adam, "args": {"lr": RATE, "betas": BETAS}}
    hinge = config.loss.name == "hinge"
    game = [HingeG(), HingeD()] if hinge else [losses.MinimaxGeneratorLoss(), losses.MinimaxDiscriminatorLoss()]
    models_of = {"generator": Generator, "discriminator": Discriminator}
    with tempfile.TemporaryDirectory() as folder:  # it makes folders at once, and writes only when an epoch ends
        trainer = Trainer(
            {name: {"name": network, "optimizer": adam} for name, network in models_of.items()},
            game,
            device=device,
            checkpoints=f"{folder}/model",
            recon=folder,
        )
    trainer.batch_size = config.batch_size
    batches = _endless(_picture_loader(config, data))

    def run(steps: int) -> None:
        for _ in range(steps):
            pictures, labels = next(batches)
            trainer.real_inputs, trainer.labels = pictures.to(device), labels.to(device)
            loss_g, loss_d, steps_g, steps_d = trainer.train_iter()
            trainer.loss_information["generator_losses"] += loss_g
            trainer.loss_information["discriminator_losses"] += loss_d
            trainer.loss_information["generator_iters"] += steps_g
            trainer.loss_information["discriminator_iters"] += steps_d
            trainer.logger.run_mid_epoch(trainer)

    return run


# ---- gantune with one measure taken back


def default_adam() -> Callable[[Any, float], optim.Optimizer]:
    """Adam in PyTorch's default form, as an optimizer component."""
    return lambda parameters, lr: optim.Adam(parameters, lr=lr, betas=BETAS)


def _default_optimizer(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    return gantune(replace(config, optimizer=Component(name=f"{__name__}:default_adam")), data, device)


def _contiguous(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    trainer = GANTrainer(config, data.shape, device)
    for network in (trainer.generator, trainer.discriminator, trainer.ema_generator):
        network.to(memory_format=torch.contiguous_format)
    source = BatchSource(data, device, seed=0)

    def draw(count: int) -> Batch:
        batch = source.draw(count)
        return Batch(batch.samples.contiguous(), batch.labels)

    return _stepping(trainer, draw)


def _fed_by_loader(make: Callable[[TrialConfig, DataSet], DataLoader[Any]]) -> Make:
    def made(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
        batches = _endless(make(config, data))
        return _stepping(GANTrainer(config, data.shape, device), lambda count: Batch(next(batches)[0].to(device), None))

    return made


def _unfrozen(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    trainer = GANTrainer(config, data.shape, device)
    trainer.discriminator.requires_grad_ = lambda wanted=True: trainer.discriminator  # type: ignore[method-assign]
    return _stepping(trainer, BatchSource(data, device, seed=0).draw)


def _read_every_step(config: TrialConfig, data: DataSet, device: torch.device) -> Run:
    trainer = GANTrainer(config, data.shape, device)
    return _stepping(trainer, BatchSource(data, device, seed=0).draw, trainer.take_signals)


ABLATIONS: dict[str, Make] = {
    "default Adam": _default_optimizer,
    "contiguous": _contiguous,
    "tensor DataLoader": _fed_by_loader(_tensor_loader),
    "picture DataLoader": _fed_by_loader(_picture_loader),
    "D not frozen": _unfrozen,
    "signals read each step": _read_every_step,
}


# ---- measuring


def _timed(run: Run, steps: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds for so many steps, with what they started on the device finished."""
    _wait(device)
    started = clock()
    with contextlib.redirect_stdout(io.StringIO()):
        run(steps)
    _wait(device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    contestants: dict[str, Make],
    setting: Setting,
    data: DataSet,
    device: torch.device,
    *,
    rounds: int,
    turn: float,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Seconds per step of each contestant, one number a round."""
    torch.manual_seed(0)
    runs = {name: make(setting.config(), data, device) for name, make in contestants.items()}
    steps = {}
    for name, run in runs.items():
        _timed(run, WARM_UP, device, clock)
        steps[name] = max(5, round(turn * WARM_UP / _timed(run, WARM_UP, device, clock)))
    found: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turned in range(rounds):
        begin = turned % len(names)
        for name in names[begin:] + names[:begin]:
            found[name].append(_timed(runs[name], steps[name], device, clock) / steps[name])
    return found


def synthetic(count: int = SYNTHETIC) -> DataSet:
    """Smooth random RGB pictures of 32x32, always the same ones."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    pictures = [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in coarse]
    examples = np.stack(pictures).transpose(0, 3, 1, 2).copy()
    return DataSet(name="synthetic", key="synthetic", examples=examples, labels=None, class_names=())


def _ratios(ours: list[float], other: list[float]) -> str:
    ratios = [theirs / own for own, theirs in zip(ours, other, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def main() -> None:
    """Measure the chosen settings and print a row each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=float, default=1.0, help="seconds of one contestant's turn")
    parser.add_argument("--settings", nargs="+", default=[""], metavar="WORD", help="rows whose name starts so")
    parser.add_argument("--data", metavar="PATH", help="RGB pictures: a folder or Parquet, such as CIFAR-10")
    parser.add_argument("--against", choices=["torchgan"], action="append", default=[])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--ablate", action="store_true", help="take one of gantune's measures back at a time")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted if chosen.device == "auto" else chosen.device)
    if device.type == "cuda" and chosen.clock == "cpu":
        parser.error("--clock cpu does not see what a GPU does; use --clock wall")
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time

    others = ABLATIONS if chosen.ablate else {"tutorial": tutorial, "tensor": tensor}
    if "torchgan" in chosen.against:
        if importlib.util.find_spec("torchgan") is None:
            parser.error("torchgan is not installed; try: pip install torchgan")
        others = {**others, "torchgan": torchgan}

    print(
        f"torch {torch.__version__}, {device}, threads {chosen.threads}, {chosen.rounds} rounds, {chosen.clock} clock\n"
    )
    print("| setting | gantune images/s |" + "".join(f" {name} |" for name in others))
    print("|---|---|" + "---|" * len(others))
    opened: dict[str, DataSet] = {}
    for name, setting in SETTINGS.items():
        if not name.startswith(tuple(chosen.settings)):
            continue
        if setting.picture not in opened:
            opened[setting.picture] = _open(setting.picture, chosen.data)
        pictures = opened[setting.picture]
        contestants = {"gantune": gantune, **others}
        found = measure(contestants, setting, pictures, device, rounds=chosen.rounds, turn=chosen.turn, clock=clock)
        speed = setting.batch / median(found["gantune"])
        cells = "".join(f" {_ratios(found['gantune'], found[other])} |" for other in others)
        print(f"| {name} | {speed:,.0f} |{cells}", flush=True)


def _open(picture: str, path: str | None) -> DataSet:
    if picture == "digits":
        return open_data(DataConfig(dataset="digits", size=16))
    return synthetic() if path is None else open_data(DataConfig(dataset=path, size=32, channels="rgb"))


if __name__ == "__main__":
    main()
