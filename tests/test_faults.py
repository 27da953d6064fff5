import math
from dataclasses import dataclass, field

import pytest
import torch
from PIL import Image
from torch import nn

from gantune.collapse import CollapseMonitor, Verdict
from gantune.config import CollapseConfig, Component, DataConfig, ObjectiveConfig, SampleCounts, TrialConfig
from gantune.data.data_set import open_data, scale
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.models.mlp import mlp
from gantune.models.networks import Networks
from gantune.trial import PICTURE, STEPS_BETWEEN_CHECKS, train_trial

DATA = DataConfig(dataset="digits", size=8)
REPORTS = 12
WELL_BEFORE = 0.8  # of the budget: a run that is given up later has wasted nearly all of it
BREAKS_AFTER = 50  # calls of a generator in training


@pytest.fixture(scope="module")
def digits():
    images = open_data(DATA)
    return images, load_reference(prepare_reference(images))


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def make(**changes):
    values = {
        "data": DATA,
        "objective": ObjectiveConfig(samples=SampleCounts(report=200, final=200), reports=REPORTS),
        "collapse": CollapseConfig(),
        "samples": 8000,
        "target": None,
        "seed": 0,
        "architecture": component("mlp", hidden=64, depth=2, z_dim=16),
        "loss": component("non_saturating"),
        "optimizer": component("adam"),
        "lr_g": 1e-3,
        "batch_size": 32,
        "ema_halflife_samples": 500,
    }
    return TrialConfig(**{**values, **changes})


def train(config, digits, folder):
    return list(train_trial(config, *digits, folder, torch.device("cpu")))


# What is planted: a user's architectures


def chosen(latents, count):
    """One of `count` equal choices from the first latent: int64 [B]."""
    return (torch.special.ndtr(latents[:, 0]) * count).long().clamp(max=count - 1)


class Pictures(nn.Module):
    """Draws one of a few pictures, which it learns, and nothing else."""

    def __init__(self, count, dims):
        super().__init__()
        self.pixels = nn.Parameter(0.1 * torch.randn(count, *dims))

    def forward(self, latents):
        return self.pixels[chosen(latents, len(self.pixels))].tanh()


class Copies(nn.Module):
    """Draws training pictures; its weight has a gradient of 0."""

    def __init__(self, kept):
        super().__init__()
        self.register_buffer("kept", kept)
        self.offset = nn.Parameter(torch.zeros(kept.shape[1:]))

    def forward(self, latents):
        return self.kept[chosen(latents, len(self.kept))] + 0 * self.offset


class Frozen(nn.Module):
    """Draws what random weights make of latents; whatever its own weight becomes, the pictures stay."""

    def __init__(self, inner, dims, pulled):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.offset = nn.Parameter(torch.zeros(dims))
        self.pulled = pulled

    def forward(self, latents):
        nothing = self.offset - self.offset.detach() if self.pulled else 0 * self.offset
        return self.inner(latents) + nothing


class Breaks(nn.Module):
    """Draws pictures that are not finite once it has been called a while, in training or outside of it."""

    def __init__(self, inner, calls, when_training):
        super().__init__()
        self.inner = inner
        self.calls = calls
        self.when_training = when_training

    def forward(self, latents):
        self.calls -= self.training == self.when_training
        return self.inner(latents) * (math.nan if self.calls < 0 else 1.0)


class Certain(nn.Module):
    """Knows reals by their upper left pixel, which is black in every digit, and says 50 or -50."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, samples):
        return 50 * torch.tanh(200 * (-0.99 - samples[:, 0, 0, 0])) + 0 * self.offset


def small(shape):
    return mlp(shape, hidden=32, depth=1, z_dim=16)


def pictures(shape, *, count):
    return Networks(Pictures(count, shape.dims), small(shape).discriminator, 4)


def copies(shape):
    images = open_data(DATA)
    kept = scale(torch.from_numpy(images.examples[images.train_rows]))
    return Networks(Copies(kept), small(shape).discriminator, 4)


def frozen(shape, *, pulled):
    networks = small(shape)
    return Networks(Frozen(networks.generator, shape.dims, pulled), networks.discriminator, networks.z_dim)


def breaks(shape, *, calls, when_training):
    networks = small(shape)
    return Networks(Breaks(networks.generator, calls, when_training), networks.discriminator, networks.z_dim)


def certain(shape):
    networks = small(shape)
    return Networks(networks.generator, Certain(), networks.z_dim)


def planted(name, **options):
    return component(f"{__name__}:{name}", **options)


# Faults that the samples show


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is planted, and what it must be called: a state, words of its cause, and the measurements that decided."""

    changes: dict
    state: str
    words: tuple
    decided: dict = field(default_factory=dict)  # measurement -> (low, high)


NOTHING = (0, 1e-3)
TWO_PICTURES = {
    "architecture": planted("pictures", count=2),
    "penalty": component("r1", weight=0.1),
    "lr_g": 3e-2,
    "lr_d_ratio": 0.1,
    "batch_size": 64,
    "samples": 60_000,
}
FAULTS = {
    "a constant generator": Fault(
        changes={"architecture": planted("pictures", count=1)},
        state="mode_collapse",
        words=("one constant picture",),
        decided={"pixel_diversity": NOTHING},
    ),
    "two pictures that are learned": Fault(
        changes=TWO_PICTURES,
        state="mode_collapse",
        words=("diversity", "no improvement"),
        decided={"diversity": (0, 0.7), "recall": (0, 0.05), "rank": (0, 0.2), "reports_in_a_row": (2, REPORTS)},
    ),
    "two pictures that lie far apart": Fault(
        changes={**TWO_PICTURES, "seed": 1},  # apart as most real pairs are: diversity alone cannot see it
        state="mode_collapse",
        words=("no improvement",),
        decided={"recall": (0, 0.05), "rank": (0, 0.2), "reports_in_a_row": (2, REPORTS)},
    ),
    "a generator that no step moves": Fault(
        changes={"architecture": planted("frozen", pulled=True)},
        state="generator_stalled",
        words=("not one sample has changed",),
        decided={"g_gradient": (1e-2, math.inf), "reports_in_a_row": (2, REPORTS)},
    ),
    "a generator cut off from its weights": Fault(
        changes={"architecture": planted("frozen", pulled=False)},
        state="generator_stalled",
        words=("not one sample has changed",),
        decided={"g_gradient": (0, 0), "reports_in_a_row": (2, REPORTS)},
    ),
    "a learning rate that moves nothing": Fault(
        changes={"lr_g": 1e-12, "lr_d_ratio": 1e9},
        state="generator_stalled",
        words=("not one sample has changed",),
        decided={"g_gradient": (1e-2, math.inf), "reports_in_a_row": (2, REPORTS)},
    ),
    "a discriminator that is certain from the start": Fault(
        changes={"architecture": planted("certain"), "loss": component("minimax")},
        state="discriminator_won",
        words=("never wrong", "gradient is gone"),
        decided={"d_accuracy": (1, 1), "g_gradient": NOTHING, "logit_fake": (-50, -49)},
    ),
    "a discriminator that outruns a saturating game": Fault(
        changes={
            "loss": component("minimax"),
            "optimizer": component("sgd"),
            "optimizer_d": component("adam"),
            "lr_d_ratio": 30.0,
            "samples": 20_000,
        },
        state="discriminator_won",
        words=("never wrong", "gradient is gone"),
        decided={"d_accuracy": (0.99, 1), "g_gradient": NOTHING, "pixel_diversity": (0, 0.5)},
    ),
    "a generator that copies": Fault(
        changes={"architecture": planted("copies")},
        state="memorised",
        words=("training examples",),
        decided={"memorisation": (0, 0.01), "diversity": (0.8, 1.2), "pixel_diversity": (0.8, 1.2)},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run in which a fault was planted, from its first report to its last."""

    fault: Fault
    config: TrialConfig
    reports: list
    folder: object

    @property
    def verdict(self):
        return self.reports[-1].verdict


@pytest.fixture(scope="module", params=FAULTS.values(), ids=FAULTS)
def run(request, digits, tmp_path_factory):
    config, folder = make(**request.param.changes), tmp_path_factory.mktemp("trial")
    return Run(fault=request.param, config=config, reports=train(config, digits, folder), folder=folder)


def test_a_planted_fault_is_called_by_its_name(run):
    assert run.verdict.state == run.fault.state
    for word in run.fault.words:
        assert word in run.verdict.cause


def test_a_planted_fault_ends_the_run_well_before_its_budget(run):
    assert [progress.state for progress in run.reports] == ["running"] * (len(run.reports) - 1) + ["collapsed"]
    assert run.reports[-1].samples_seen <= WELL_BEFORE * run.config.samples
    assert all(progress.verdict == Verdict() for progress in run.reports[:-1])


def test_the_evidence_is_finite_and_is_what_the_last_report_measured(run):
    evidence, last = run.verdict.evidence, run.reports[-1]
    assert all(math.isfinite(value) for value in evidence.values())
    rates = {name for name in last.metrics if name.startswith("in_force.")}  # what was set, not measured
    assert evidence.items() >= {name: last.metrics[name] for name in last.metrics.keys() - rates}.items()
    assert evidence["score"] == last.score
    assert evidence["share_of_budget"] == last.samples_seen / run.config.samples


def test_the_evidence_holds_what_decided(run):
    for name, (low, high) in run.fault.decided.items():
        assert low <= run.verdict.evidence[name] <= high, name


def test_a_run_that_was_given_up_leaves_a_picture_of_its_samples(run):
    with Image.open(run.folder / PICTURE) as picture:
        picture.load()
        low, high = picture.getextrema()
    assert picture.format == "PNG"
    assert low < high


def test_a_constant_generator_is_found_in_its_first_report(digits, tmp_path):
    (only,) = train(make(**FAULTS["a constant generator"].changes), digits, tmp_path)
    assert only.state == "collapsed"
    assert only.best_score is None


@pytest.mark.parametrize("seed", [0, 1])
def test_two_pictures_improve_on_the_first_report_before_they_stand_still(digits, tmp_path, seed):
    config = make(**{**TWO_PICTURES, "seed": seed, "collapse": CollapseConfig(enabled=False)})
    first, *later = [progress.score for progress in train(config, digits, tmp_path)]
    assert min(later) < 0.9 * first
    assert later.index(min(later)) < REPORTS / 2
    assert later[-1] > 1.05 * min(later)


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_that_samples_show_ends_a_run_that_is_not_judged(digits, tmp_path, name):
    reports = train(make(**FAULTS[name].changes, collapse=CollapseConfig(enabled=False)), digits, tmp_path)
    assert len(reports) == REPORTS
    assert reports[-1].state == "finished"
    assert all(progress.verdict == Verdict() for progress in reports)
    assert not (tmp_path / PICTURE).exists()


# Values that are not finite; there is nothing to draw a picture of


@pytest.mark.parametrize("enabled", [True, False])
def test_a_generator_that_breaks_in_training_ends_the_run_at_the_next_check(digits, tmp_path, enabled):
    config = make(
        architecture=planted("breaks", calls=BREAKS_AFTER, when_training=True), collapse=CollapseConfig(enabled=enabled)
    )
    *before, last = train(config, digits, tmp_path)
    assert BREAKS_AFTER < last.samples_seen / config.batch_size <= BREAKS_AFTER + STEPS_BETWEEN_CHECKS
    assert all(progress.verdict == Verdict() for progress in before)
    assert last.state == "collapsed"
    assert last.score is None
    assert last.verdict.state == "diverged"
    assert "weights, losses or logits are not finite" in last.verdict.cause
    assert last.verdict.evidence
    assert all(math.isfinite(value) for value in last.verdict.evidence.values())
    assert not (tmp_path / PICTURE).exists()


def test_a_generator_whose_pictures_break_outside_of_training_ends_the_run_at_that_report(digits, tmp_path):
    looks = 5  # at fresh networks, and at two reports, which measure and show
    config = make(architecture=planted("breaks", calls=looks, when_training=False))
    reports = train(config, digits, tmp_path)
    last = reports[-1]
    assert [progress.state for progress in reports] == ["running", "running", "collapsed"]
    assert last.verdict.state == "diverged"
    assert "generated pictures are not finite" in last.verdict.cause
    assert last.verdict.evidence["share_of_budget"] == last.samples_seen / config.samples
    assert all(math.isfinite(value) for value in last.verdict.evidence.values())
    assert not (tmp_path / PICTURE).exists()


# What is no fault

SMALL_DCGAN = {"width": 8, "z_dim": 64}
HEALTHY = {
    "mlp non_saturating": {},
    "dcgan non_saturating r1": {
        "architecture": component("dcgan", norm_d="none", **SMALL_DCGAN),
        "penalty": component("r1", weight=0.01),
    },
    "mlp hinge": {"architecture": component("mlp", hidden=128, depth=2, z_dim=16), "loss": component("hinge")},
    "dcgan hinge spectral": {
        "architecture": component("dcgan", norm_d="spectral", **SMALL_DCGAN),
        "loss": component("hinge"),
        "lr_g": 5e-4,
    },
    "mlp least_squares batch norm": {
        "architecture": component("mlp", hidden=128, depth=2, norm_g="batch"),
        "loss": component("least_squares"),
    },
    "dcgan least_squares layer norm": {
        "architecture": component("dcgan", norm_d="layer", **SMALL_DCGAN),
        "loss": component("least_squares"),
    },
    "mlp wgan_gp": {"loss": component("wgan_gp", gp_weight=10.0, d_steps=1)},
    "dcgan wgan_gp": {
        "architecture": component("dcgan", norm_d="layer", **SMALL_DCGAN),
        "loss": component("wgan_gp", gp_weight=10.0, d_steps=1),
    },
    "mlp wgan_gp of two steps": {"loss": component("wgan_gp", gp_weight=5.0, d_steps=2)},
    "mlp non_saturating rmsprop": {"optimizer": component("rmsprop"), "lr_g": 3e-4},
}


@pytest.mark.parametrize(("seed", "name"), list(enumerate(HEALTHY)), ids=HEALTHY)
def test_a_healthy_run_is_never_judged(digits, tmp_path, seed, name):
    reports = train(make(**{"samples": 20_000, "seed": seed, **HEALTHY[name]}), digits, tmp_path)
    assert [progress.verdict for progress in reports if progress.verdict.dead] == []
    assert len(reports) == REPORTS
    assert reports[-1].state == "finished"
    assert reports[-1].score < 0.75 * reports[0].score
    assert not (tmp_path / PICTURE).exists()


def test_a_run_that_slumps_early_and_recovers_is_never_judged():
    fair = {"d_accuracy": 0.7, "g_gradient": 1.0}
    won = {"d_accuracy": 1.0, "g_gradient": 1e-5}
    curve = [  # share of the budget, score, diversity, signals
        (0.05, 400, 0.60, fair),
        (0.10, 700, 0.10, won),
        (0.15, 900, 0.05, won),
        (0.20, 950, 0.05, won),
        (0.25, 380, 0.40, fair),
        (0.30, 300, 0.55, fair),
        *((0.30 + 0.05 * step, 300 - 15 * step, 0.55 + 0.02 * step, fair) for step in range(1, 15)),
    ]
    judge = CollapseMonitor(CollapseConfig(), 1000)
    for share, score, diversity, signals in curve:
        metrics = {"diversity": diversity, "pixel_diversity": diversity, "recall": diversity / 2, "memorisation": 1.0}
        assert judge.observe(round(1000 * share), score, metrics, signals, finite=True) == Verdict(), share
