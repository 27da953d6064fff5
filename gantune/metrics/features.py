"""Features of pictures from a small classifier that is trained once on the data set itself.

With labels it learns them (`classifier`); without, it learns by how many quarter turns a picture was rotated
(`rotation`, Gidaris et al. 2018), which needs no labels. Either way the last hidden layer is the feature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gantune.data.data_set import DataSet, scale
from gantune.errors import DataError

FEATURES = 64
STEPS = 1200
BATCH = 128
HELD_OUT = 0.1
CHUNK = 500

Task = Literal["classifier", "rotation"]


class FeatureNet(nn.Module):
    """A convolutional classifier; `features` gives its last hidden layer."""

    def __init__(self, dims: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_of_points(*dims) if len(dims) == 1 else _of_pictures(dims[0])))
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, samples: Tensor) -> Tensor:
        """Class logits [B, classes] of pictures [B, C, S, S] in [-1, 1], or of points [B, D]."""
        logits: Tensor = self.head(self.body(samples))
        return logits

    @torch.no_grad()
    def features(self, examples: Tensor) -> Tensor:
        """Features [N, 64], float32, of uint8 pixels [N, C, S, S] or points [N, D], a chunk at a time."""
        assert not self.training, "features are taken in eval mode"
        device = self.head.weight.device
        chunks = [self.body(scale(chunk.to(device))) for chunk in torch.split(examples, CHUNK)]
        return torch.cat(chunks)


def _of_pictures(channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, FEATURES),
        nn.ReLU(),
    ]


def _of_points(coordinates: int) -> list[nn.Module]:
    return [
        nn.Linear(coordinates, FEATURES),
        nn.BatchNorm1d(FEATURES),
        nn.ReLU(),
        nn.Linear(FEATURES, FEATURES),
        nn.ReLU(),
    ]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained feature network, what it learned, and its accuracy on pictures it did not see."""

    net: FeatureNet
    task: Task
    accuracy: float


def train_features(images: DataSet, report: Callable[[str], None] = lambda text: None) -> Trained:
    """Train the feature network of a data set, from fixed seeds, on the CPU. Some seconds to half a minute.

    Raises DataError for points without labels.
    """
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    if labels is None and images.examples.ndim == 2:
        raise DataError(f"{images.name}: points need labels, on which the features of the score are learned")
    task: Task = "rotation" if labels is None else "classifier"
    classes = 4 if labels is None else int(labels.max()) + 1
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images.examples), generator=generator)
    held = max(32, min(2000, int(HELD_OUT * len(order))))
    train, test = order[held:], order[:held]

    def batch(index: Tensor) -> tuple[Tensor, Tensor]:
        pictures = scale(torch.from_numpy(images.examples[index.numpy()]))
        if labels is not None:
            return pictures, labels[index]
        turns = torch.randint(4, (len(index),), generator=generator)
        for turn in range(1, 4):
            pictures[turns == turn] = pictures[turns == turn].rot90(turn, (2, 3))
        return pictures, turns

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FeatureNet(images.shape.dims, classes)
    steps = min(STEPS, max(300, 8 * len(train) // BATCH))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        pictures, targets = batch(train[torch.randint(len(train), (BATCH,), generator=generator)])
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(net(pictures), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            report(f"learning features ({task}): step {step + 1} of {steps}")
    net.eval().requires_grad_(False)
    correct = 0
    with torch.no_grad():
        for index in torch.split(test, CHUNK):
            pictures, targets = batch(index)
            correct += int((net(pictures).argmax(1) == targets).sum())
    return Trained(net, task, correct / held)
