from dataclasses import replace

import pytest
import torch

from gantune.accumulation import AccumulatingTrainer, fewer
from gantune.config import CollapseConfig, Component, DataConfig, ObjectiveConfig, SampleCounts, TrialConfig
from gantune.data.data_set import Batch, open_data
from gantune.errors import ShortOfMemoryError
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.models.mlp import mlp
from gantune.models.networks import ImageShape
from gantune.trainer import GANTrainer
from gantune.trial import train_trial

SHAPE = ImageShape(1, 8)
CPU = torch.device("cpu")


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def make(**changes):
    values = {
        "data": DataConfig(dataset="digits", size=8),
        "objective": ObjectiveConfig(samples=SampleCounts(report=64, final=64), reports=2),
        "collapse": CollapseConfig(enabled=False),
        "samples": 640,
        "target": None,
        "seed": 3,
        "architecture": component("mlp", hidden=16, depth=1, z_dim=8),
        "loss": component("hinge", d_steps=1),
        "optimizer": component("sgd"),
        "lr_g": 1e-2,
        "batch_size": 24,
        "ema_halflife_samples": 100,
    }
    return TrialConfig(**{**values, **changes})


def draws():
    generator = torch.Generator().manual_seed(5)
    return lambda count: Batch(torch.rand(count, *SHAPE.dims, generator=generator) * 2 - 1, None)


def trained(config, micro_batches, steps=5):
    trainer = (
        GANTrainer(config, SHAPE, CPU)
        if micro_batches is None
        else AccumulatingTrainer(config, SHAPE, CPU, micro_batches=micro_batches)
    )
    draw = draws()
    for _ in range(steps):
        trainer.step(draw)
    return trainer


LOSSES = {
    "minimax": {"loss": component("minimax", label_smoothing=0.1)},
    "non_saturating": {"loss": component("non_saturating")},
    "least_squares": {"loss": component("least_squares", d_steps=2)},
    "hinge": {"loss": component("hinge")},
    "wasserstein": {"loss": component("wasserstein", clip=0.05, d_steps=2)},
    "wgan_gp": {"loss": component("wgan_gp", gp_weight=10.0, d_steps=2)},
    "relativistic": {"loss": component("relativistic"), "penalty": component("r1_r2", weight=1.0)},
    "a lazy penalty": {"penalty": component("r1", weight=1.0, every=2)},
    "spectral norm": {"architecture": component("mlp", hidden=16, depth=2, z_dim=8, norm_d="spectral")},
    "clipped gradients": {"grad_clip": 0.01},
}


@pytest.mark.parametrize("micro_batches", [1, 2, 5])
@pytest.mark.parametrize("changes", LOSSES.values(), ids=LOSSES)
def test_steps_in_chunks_are_the_steps_of_the_whole_batch_to_rounding(changes, micro_batches):
    whole, chunks = trained(make(**changes), None), trained(make(**changes), micro_batches)
    found = chunks.state()
    for name, value in whole.state().items():
        torch.testing.assert_close(
            found[name], value, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert chunks.samples_seen == whole.samples_seen
    assert chunks.take_signals() == pytest.approx(whole.take_signals(), rel=1e-3, abs=1e-5)


def test_every_chunk_moves_lecams_averages_by_its_part_alone():
    changes = {"regularizer": component("lecam", decay=0.9)}
    whole, chunks = (trained(make(**changes), count, steps=1) for count in (None, 4))
    for name in ("real", "fake", "share"):
        torch.testing.assert_close(
            getattr(chunks.terms["regularizer"], name), getattr(whole.terms["regularizer"], name)
        )


def test_batch_norm_keeps_the_mean_of_its_chunks_running_means():
    norm = {"architecture": component("mlp", hidden=16, depth=2, z_dim=8, norm_g="batch")}
    whole, chunks = (trained(make(**norm), count, steps=1).state() for count in (None, 4))
    names = [name for name in whole if name.startswith("g.") and name.endswith("running_mean")]
    assert names
    for name in names[:1]:  # later ones see what the first made of each chunk's own statistics
        torch.testing.assert_close(chunks[name], whole[name])


def test_a_batch_is_cut_in_half_again_and_again_but_not_to_single_samples():
    assert [fewer(count, 24) for count in (1, 2, 4, 8)] == [2, 4, 8, None]


class Large(torch.nn.Module):
    """Cannot hold more than a few samples."""

    def __init__(self, inner, most, error):
        super().__init__()
        self.inner, self.most, self.error = inner, most, error

    def forward(self, samples):
        if self.training and len(samples) > self.most:
            raise self.error
        return self.inner(samples)


def large(shape, *, most: int, gpu: bool = True):
    networks = mlp(shape, hidden=16, depth=1, z_dim=8)
    text = "CUDA out of memory. Tried to allocate 2.00 GiB"
    error = torch.OutOfMemoryError(text) if gpu else RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")
    return replace(networks, discriminator=Large(networks.discriminator, most, error))


@pytest.fixture(scope="module")
def digits():
    images = open_data(DataConfig(dataset="digits", size=8))
    return images, load_reference(prepare_reference(images))


@pytest.mark.parametrize("gpu", [True, False])
def test_a_trial_that_memory_cannot_hold_goes_on_in_chunks_and_says_so(digits, tmp_path, gpu):
    config = make(architecture=component(f"{__name__}:large", most=6, gpu=gpu))
    for count in (1, 2):
        with pytest.raises(ShortOfMemoryError, match="lower batch_size or the width"):
            list(train_trial(config, *digits, tmp_path, CPU, micro_batches=count))
    reports = list(train_trial(config, *digits, tmp_path, CPU, micro_batches=4))
    assert reports[-1].state == "finished"
    assert {report.metrics["micro_batches"] for report in reports} == {4.0}


def test_a_checkpoint_written_under_another_count_continues(digits, tmp_path):
    config = make()
    whole = list(train_trial(config, *digits, tmp_path / "whole", CPU))
    first = next(train_trial(config, *digits, tmp_path / "cut", CPU))
    repeated, last = train_trial(config, *digits, tmp_path / "cut", CPU, micro_batches=2)
    assert repeated == first
    assert last.score == pytest.approx(whole[-1].score, rel=1e-2)
    assert "micro_batches" not in whole[-1].metrics


def test_an_error_that_is_not_of_memory_stays_what_it_is(digits, tmp_path):
    config = make(architecture=component(f"{__name__}:broken"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(train_trial(config, *digits, tmp_path, CPU))


def broken(shape):
    networks = mlp(shape, hidden=16, depth=1, z_dim=8)
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    return replace(networks, discriminator=Large(networks.discriminator, 6, error))
