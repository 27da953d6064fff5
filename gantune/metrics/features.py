"""What a score sees: networks that turn pictures into features.

A component of this kind is `name(shape, *, options) -> nn.Module`, whose module turns pictures [B, C, S, S] in [-1, 1]
(or points [B, D]) into features [B, D]. It may have `learn(images, report)`, which trains it on the data set and
returns its accuracy on examples it did not see; its weights are then kept with the reference. It may have
`classify(features)`, logits [B, K] from features. `label` names it in the metric: `fid_classifier`.

Without `features:` a score sees a small classifier: with labels it learns them (`classifier`); without, it learns by
how many quarter turns a picture was rotated (`rotation`), which needs no labels.
"""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gantune.data.data_set import DataSet, scale
from gantune.errors import DataError
from gantune.models.networks import ImageShape, Shape

FEATURES = 64
STEPS = 1200
BATCH = 128
CHUNK = 500
TURNS = 4
SECONDS_BETWEEN_REPORTS = 0.5

Report = Callable[[str], None]


class FeatureNet(nn.Module):
    """A small classifier whose last hidden layer is the feature."""

    def __init__(self, shape: Shape, classes: int, label: str) -> None:
        super().__init__()
        self.label = label
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = _of_pictures(shape.channels) if isinstance(shape, ImageShape) else _of_points(shape.coordinates)
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(FEATURES, classes)

    def forward(self, samples: Tensor) -> Tensor:
        """Features [B, 64] of pictures [B, C, S, S] in [-1, 1], or of points [B, D]."""
        features: Tensor = self.body(samples)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Class logits [B, classes] of features [B, 64]."""
        logits: Tensor = self.head(features)
        return logits

    def fit(self, batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, report: Report) -> None:
        """Train on batches of samples and classes; the network is then in eval mode and frozen."""
        self.train()
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        reported = 0.0
        for step in range(steps):
            samples, targets = batch(BATCH)
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(self.classify(self(samples)), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                report(f"learning features ({self.label}): step {step + 1} of {steps} ({(step + 1) / steps:.0%})")
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def accuracy(self, samples: Tensor, targets: Tensor) -> float:
        """Share of uint8 pixels [N, C, S, S] or points [N, D] whose class [N] is named rightly."""
        logits = self.classify(extract(self, samples, torch.device("cpu")))
        return float((logits.argmax(1) == targets).double().mean())

    def learn(self, images: DataSet, report: Report = lambda text: None) -> float:
        """Train on the data set, on the CPU, some seconds to a minute; the accuracy on held-out examples."""
        assert images.labels is not None
        labels = torch.from_numpy(images.labels)
        rows, held = images.train_rows, images.held_rows
        self.fit(_batches(images.examples, labels, rows), steps_for(len(rows)), report)
        return self.accuracy(torch.from_numpy(images.examples[held]), labels[held])


class RotationNet(FeatureNet):
    """Features that need no labels: told by how many quarter turns a picture is rotated. Gidaris et al. 2018."""

    def learn(self, images: DataSet, report: Report = lambda text: None) -> float:
        """Train on the data set's own pictures, turned; the accuracy on held-out pictures."""
        rows = images.train_rows
        draws = torch.Generator().manual_seed(0)

        def batch(count: int) -> tuple[Tensor, Tensor]:
            chosen = rows[torch.randint(len(rows), (count,), generator=draws).numpy()]
            turns = torch.randint(TURNS, (count,), generator=draws)
            return scale(_turned(images.examples[chosen], turns)), turns

        self.fit(batch, steps_for(len(rows)), report)
        turns = torch.arange(len(images.held_rows)) % TURNS
        return self.accuracy(_turned(images.examples[images.held_rows], turns), turns)


def _turned(pictures: npt.NDArray[np.uint8] | npt.NDArray[np.float32], turns: Tensor) -> Tensor:
    found = torch.from_numpy(pictures)
    for turn in range(1, TURNS):
        found[turns == turn] = found[turns == turn].rot90(turn, (2, 3))
    return found


def _batches(
    samples: npt.NDArray[np.uint8] | npt.NDArray[np.float32], labels: Tensor, rows: npt.NDArray[np.int64]
) -> Callable[[int], tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(0)

    def batch(count: int) -> tuple[Tensor, Tensor]:
        chosen = rows[torch.randint(len(rows), (count,), generator=draws).numpy()]
        return scale(torch.from_numpy(samples[chosen])), labels[chosen]

    return batch


def steps_for(count: int) -> int:
    """Steps of training on so many examples: about eight passes, within 300 and 1,200."""
    return min(STEPS, max(300, 8 * count // BATCH))


def synthetic_accuracy(samples: Tensor, labels: Tensor, shape: Shape, held: Tensor, held_labels: Tensor) -> float:
    """Accuracy on held-out reals of a classifier trained on labelled samples alone. Ravuri & Vinyals 2019.

    samples: uint8 pixels [N, C, S, S] or points [N, D], labels: [N]; held, held_labels: the reals, likewise. Of
    conditional generators, at a trial's end.
    """
    net = FeatureNet(shape, shape.classes, "synthetic")
    net.fit(_batches(samples.numpy(), labels, np.arange(len(samples))), steps_for(len(samples)), lambda text: None)
    return net.accuracy(held, held_labels)


@torch.no_grad()
def extract(net: nn.Module, examples: Tensor, device: torch.device) -> Tensor:
    """Features [N, D], float32, on `device`, of uint8 pixels [N, C, S, S] or points [N, D], a chunk at a time."""
    assert not net.training, "features are taken in eval mode"
    return torch.cat([net(scale(chunk.to(device))).flatten(1).float() for chunk in torch.split(examples, CHUNK)])


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


def classifier(shape: Shape) -> FeatureNet:
    """A small convolutional classifier, trained on the data set's own labels; its last hidden layer, 64 wide."""
    if not shape.classes:
        raise DataError("features `classifier`: the data has no labels; use `rotation`, or leave features out")
    return FeatureNet(shape, shape.classes, "classifier")


def rotation(shape: Shape) -> FeatureNet:
    """A small network that learned by how many quarter turns a picture is rotated; 64 wide. Gidaris et al. 2018."""
    if not isinstance(shape, ImageShape):
        raise DataError("features `rotation`: points cannot be turned; label them, and leave features out")
    return RotationNet(shape, TURNS, "rotation")


def auto(shape: Shape) -> FeatureNet:
    """`classifier` where the data has labels, `rotation` where it has none."""
    if not shape.classes and not isinstance(shape, ImageShape):
        raise DataError("points need labels, on which the features of the score are learned")
    return classifier(shape) if shape.classes else rotation(shape)
