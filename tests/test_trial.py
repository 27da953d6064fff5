import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from gantune import trial as trial_module
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.collapse import CollapseMonitor, Verdict
from gantune.config import (
    CollapseConfig,
    Component,
    Constraint,
    DataConfig,
    ObjectiveConfig,
    SampleCounts,
    TrialConfig,
    derive_seed,
)
from gantune.data.data_set import BatchSource, DataSet
from gantune.errors import AuditError, CheckpointError, SpecError
from gantune.export import load_generator
from gantune.losses import Game, hinge_d, negated_g
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.models.mlp import mlp
from gantune.models.networks import ImageShape, Networks
from gantune.pictures import moments
from gantune.progress import Progress
from gantune.reports import BEST, LATEST
from gantune.trainer import GANTrainer
from gantune.trial import meets, train_trial
from gantune.writing import trial_document

CPU = torch.device("cpu")
NO_COLLAPSE = CollapseConfig(enabled=False)


@pytest.fixture(scope="module")
def images():
    """256 grey pictures: four patterns under noise."""
    draws = np.random.default_rng(0)
    labels = np.arange(256, dtype=np.int64) % 4
    patterns = draws.integers(0, 180, (4, 1, 16, 16))
    pixels = (patterns[labels] + draws.integers(0, 75, (256, 1, 16, 16))).astype(np.uint8)
    return DataSet(
        name="patterns", key="four-patterns", examples=pixels, labels=labels, class_names=("a", "b", "c", "d")
    )


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GANTUNE_CACHE", str(tmp_path_factory.mktemp("references")))
        return load_reference(prepare_reference(images))


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def small_mlp(**options):
    return component("mlp", **{"hidden": 16, "depth": 1, "z_dim": 8, "norm_g": "none", "norm_d": "none", **options})


def small_dcgan(**options):
    return component("dcgan", **{"width": 4, "z_dim": 8, "norm_g": "batch", "norm_d": "batch", **options})


def objective(reports=4, report=64, final=96, constraints=()):
    return ObjectiveConfig(
        samples=SampleCounts(report=report, final=final), reports=reports, constraints=tuple(constraints)
    )


def make(**changes):
    values = {
        "data": DataConfig(dataset="patterns"),
        "objective": objective(),
        "collapse": NO_COLLAPSE,
        "samples": 256,
        "target": None,
        "seed": 3,
        "architecture": small_mlp(),
        "loss": component("hinge", d_steps=1),
        "optimizer": component("adam", beta1=0.5, beta2=0.9),
        "lr_g": 2e-3,
        "batch_size": 16,
        "ema_halflife_samples": 50,
    }
    return TrialConfig(**{**values, **changes})


@pytest.fixture
def train(images, reference):
    """Start a trial in a folder; the result is the generator that drives it."""
    return lambda config, folder: train_trial(config, images, reference, folder, CPU)


def timeless(progress):
    return replace(progress, seconds=0.0)


def untimed(reports):
    return [timeless(progress) for progress in reports]


def raw(tensors):
    return {
        name: (tensor.dtype, tensor.shape, bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
        for name, tensor in tensors.items()
    }


def kept(folder):
    """Everything in a trial's folder, to the bit, without the clock."""
    contents = {}
    for name, kind in ((LATEST, "trial"), (BEST, "generator")):
        if (folder / name).exists():
            tensors, meta = read_checkpoint(folder / name, kind)
            meta.get("progress", {}).pop("seconds", None)
            contents[name] = (raw(tensors), meta)
    return contents


def forgetful(shape, *, hidden=16, rate=0.4):
    """A user's networks that draw from torch's global stream as they train."""
    pixels = math.prod(shape.dims)
    generator = [nn.Linear(8, hidden), nn.ReLU(), nn.Dropout(rate), nn.Linear(hidden, pixels), nn.Tanh()]
    discriminator = [nn.Flatten(), nn.Linear(pixels, hidden), nn.Dropout(rate), nn.ReLU(), nn.Linear(hidden, 1)]
    return Networks(
        nn.Sequential(*generator, nn.Unflatten(1, shape.dims)), nn.Sequential(*discriminator, nn.Flatten(0)), 8
    )


COMBINATIONS = {
    "mlp hinge adam": {},
    "mlp wgan_gp rmsprop with momentum": {
        "architecture": small_mlp(norm_g="batch", norm_d="layer"),
        "loss": component("wgan_gp", gp_weight=10.0, d_steps=2),
        "optimizer": component("rmsprop", alpha=0.95, momentum=0.5),
    },
    "mlp clipped wasserstein with two optimizers": {
        "architecture": small_mlp(norm_d="layer"),
        "loss": component("wasserstein", clip=0.05, d_steps=3),
        "optimizer": component("adam", beta1=0.0, beta2=0.9),
        "optimizer_d": component("rmsprop", alpha=0.9, momentum=0.0),
    },
    "mlp with spectral norm minimax sgd without momentum": {
        "architecture": small_mlp(norm_d="spectral"),
        "loss": component("minimax", label_smoothing=0.1),
        "optimizer": component("sgd", momentum=0.0),
        "ema_halflife_samples": 0,
    },
    "dcgan with batch norm non_saturating sgd with momentum": {
        "architecture": small_dcgan(),
        "loss": component("non_saturating"),
        "optimizer": component("sgd", momentum=0.9, nesterov=True),
    },
    "dcgan with batch norm hinge rmsprop with momentum": {
        "architecture": small_dcgan(),
        "loss": component("hinge", d_steps=2),
        "optimizer": component("rmsprop", alpha=0.99, momentum=0.3),
    },
    "dcgan with spectral norm wgan_gp adam": {
        "architecture": small_dcgan(norm_d="spectral"),
        "loss": component("wgan_gp", gp_weight=1.0, d_steps=1),
    },
    "dcgan with layer norm least_squares gradient penalty adam": {
        "architecture": small_dcgan(norm_d="layer"),
        "loss": component("least_squares"),
        "penalty": component("gradient_penalty", weight=0.5),
        "lr_d_ratio": 0.5,
    },
    "dcgan told classes non_saturating lazy r1 adam": {
        "architecture": small_dcgan(norm_d="none", conditional=True),
        "loss": component("non_saturating"),
        "penalty": component("r1", weight=0.1, every=3),
    },
    "a user's networks that drop out": {"architecture": component(f"{__name__}:forgetful")},
}


@pytest.mark.parametrize("changes", COMBINATIONS.values(), ids=COMBINATIONS)
def test_a_resumed_trial_equals_the_trial_never_interrupted_bit_for_bit(train, tmp_path, changes):
    config = make(**changes)
    straight = list(train(config, tmp_path / "straight"))
    assert [progress.state for progress in straight] == ["running"] * 3 + ["finished"]

    again = train(config, tmp_path / "again")
    first = [next(again), next(again)]
    again.close()
    torch.manual_seed(99)  # another process has another global stream
    second = list(train(config, tmp_path / "again"))
    assert second[0] == first[-1]
    assert untimed(first + second[1:]) == untimed(straight)
    assert kept(tmp_path / "again") == kept(tmp_path / "straight")
    assert len(kept(tmp_path / "again")) == 2


def test_networks_that_draw_from_the_global_stream_neither_hear_nor_disturb_the_one_outside(train, tmp_path):
    config = make(architecture=component(f"{__name__}:forgetful"))
    straight = list(train(config, tmp_path / "straight"))
    seen = []
    for session in (1, 2, 3):  # another outer stream at every report, and another session at every second one
        again = train(config, tmp_path / "again")
        for step in range(2):
            torch.manual_seed(10 * session + step)
            outside = torch.get_rng_state()
            seen.append(next(again))
            assert torch.equal(torch.get_rng_state(), outside)
        again.close()
    assert untimed(seen) == [timeless(straight[index]) for index in (0, 1, 1, 2, 2, 3)]
    assert kept(tmp_path / "again") == kept(tmp_path / "straight")

    begun = torch.Generator().manual_seed(derive_seed(config.seed, "global")).get_state()
    kept_stream = read_checkpoint(tmp_path / "again" / LATEST, "trial")[0]["rng.global"]
    assert not torch.equal(kept_stream, begun)  # the networks did draw


def test_what_networks_draw_from_the_global_stream_follows_the_trials_seed(train, tmp_path):
    config = make(architecture=component(f"{__name__}:forgetful"))
    for seed in (3, 4):
        list(train(replace(config, seed=seed), tmp_path / str(seed)))
    states = [read_checkpoint(tmp_path / str(seed) / LATEST, "trial")[0]["rng.global"] for seed in (3, 4)]
    assert not torch.equal(*states)


def test_a_trial_interrupted_after_every_report_equals_the_trial_never_interrupted(train, tmp_path):
    config = make(architecture=small_dcgan())
    straight = list(train(config, tmp_path / "straight"))
    seen = [next(train(config, tmp_path / "again"))]
    while seen[-1].state == "running":
        resumed = train(config, tmp_path / "again")
        assert next(resumed) == seen[-1]
        seen.append(next(resumed))
        resumed.close()
    assert untimed(seen) == untimed(straight)
    assert kept(tmp_path / "again") == kept(tmp_path / "straight")


def test_a_trial_stopped_between_two_reports_loses_only_what_came_after_the_last_one(train, tmp_path, monkeypatch):
    config = make()
    straight = list(train(config, tmp_path / "straight"))
    step, calls = GANTrainer.step, []

    def killed_in_step_six(self, draw_real):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        step(self, draw_real)

    with monkeypatch.context() as patched:
        patched.setattr(GANTrainer, "step", killed_in_step_six)
        with pytest.raises(KeyboardInterrupt):
            list(train(config, tmp_path / "again"))
    assert untimed(train(config, tmp_path / "again")) == untimed(straight)
    assert kept(tmp_path / "again") == kept(tmp_path / "straight")


@pytest.mark.parametrize("report", [1, 2, 3, 4])
def test_a_trial_killed_between_writing_best_and_latest_ends_as_if_never_killed(train, tmp_path, monkeypatch, report):
    config = make()
    straight = list(train(config, tmp_path / "straight"))
    write_latest, calls = trial_module._Trial._write_latest, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == report:
            raise KeyboardInterrupt
        write_latest(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(trial_module._Trial, "_write_latest", killed)
        with pytest.raises(KeyboardInterrupt):
            list(train(config, tmp_path / "again"))
    resumed = untimed(train(config, tmp_path / "again"))
    assert resumed == untimed(straight)[max(0, report - 2) :]
    assert kept(tmp_path / "again") == kept(tmp_path / "straight")


def test_a_finished_trial_yields_its_last_report_once_more_and_trains_no_further(train, tmp_path):
    finished = list(train(make(), tmp_path))
    before = kept(tmp_path)
    assert list(train(make(), tmp_path)) == finished[-1:]
    assert kept(tmp_path) == before


def test_seconds_go_on_counting_over_sessions(train, tmp_path):
    assert next(train(make(), tmp_path)).seconds > 0
    tensors, meta = read_checkpoint(tmp_path / LATEST, "trial")
    meta["progress"]["seconds"] = 1e6
    write_checkpoint(tmp_path / LATEST, "trial", tensors, meta)
    seconds = [progress.seconds for progress in train(make(), tmp_path)]
    assert seconds[0] == 1e6
    assert all(later > earlier for earlier, later in pairwise(seconds))


def test_the_same_seed_gives_equal_results_and_another_seed_others(train, tmp_path):
    one, two, other = (
        list(train(make(seed=seed), tmp_path / name)) for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert untimed(one) == untimed(two)
    assert kept(tmp_path / "one") == kept(tmp_path / "two")
    assert not {progress.score for progress in one} & {progress.score for progress in other}


def test_a_trial_is_the_plain_loop_over_the_trainer(train, tmp_path, images):
    config = make(architecture=small_dcgan(), loss=component("hinge", d_steps=2), samples=300)
    list(train(config, tmp_path))
    trainer = GANTrainer(config, ImageShape(1, 16), CPU)
    batches = BatchSource(images, CPU, derive_seed(config.seed, "data"))
    for report in range(1, 5):
        while trainer.samples_seen < 75 * report:
            trainer.step(batches.draw)
        trainer.take_signals()
    tensors, _ = read_checkpoint(tmp_path / LATEST, "trial")
    untouched = torch.Generator().manual_seed(derive_seed(config.seed, "global")).get_state()
    streams = {"rng.data": batches.generator.get_state(), "rng.global": untouched}
    assert raw(tensors) == raw({**trainer.state(), **streams})


def test_reports_are_evenly_spaced_in_samples_to_within_a_step(train, tmp_path):
    config = make(samples=333, loss=component("hinge", d_steps=2), objective=objective(reports=5))
    reports = list(train(config, tmp_path))
    assert len(reports) == 5
    for index, progress in enumerate(reports, start=1):
        due = 333 * index / 5
        assert due <= progress.samples_seen < due + 32
    assert [progress.state for progress in reports] == ["running"] * 4 + ["finished"]


def test_every_report_advances_though_a_step_is_longer_than_the_space_between_reports(train, tmp_path):
    config = make(samples=100, loss=component("hinge", d_steps=2), objective=objective(reports=10))
    reports = list(train(config, tmp_path))
    seen = [progress.samples_seen for progress in reports]
    assert seen == sorted(set(seen))
    assert reports[-1].state == "finished"


class Scripted:
    """A reference that gives the metrics it was told, evaluation by evaluation, and keeps what it was shown."""

    key = "scripted"

    def __init__(self, scores, recalls=None):
        self.metrics = [
            {"fid_scripted": score, "recall": recall}
            for score, recall in zip(scores, recalls or [0.5] * len(scores), strict=True)
        ]
        self.shown = []

    def to(self, device):
        return self

    def named(self, metric):
        return f"{metric}_scripted"

    def evaluate(self, generate, z_dim, count, *, class_counts=(), metrics=("fid",), fully=False, own=()):
        tensors = {name: value.clone() for name, value in generate.state_dict().items()}
        self.shown.append((count, raw(tensors)))
        return dict(self.metrics[len(self.shown) - 1])


ARCHITECTURES = {
    "mlp": small_mlp(),
    "mlp with batch norm": small_mlp(norm_g="batch"),
    "dcgan with batch norm": small_dcgan(),
    "dcgan with spectral norm": small_dcgan(norm_g="none", norm_d="spectral"),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_score_and_the_weights_kept_come_from_the_same_moment(train, tmp_path, reference, architecture):
    reports = list(train(make(architecture=architecture), tmp_path))
    best = min(reports, key=lambda progress: progress.score)
    generator = load_generator(tmp_path / BEST)
    assert generator.meta["score"] == best.score
    assert generator.meta["samples_seen"] == best.samples_seen
    measured = reference.evaluate(generator.net, generator.z_dim, 64)
    assert measured[reference.named("fid")] == generator.meta["score"]
    assert measured == generator.meta["metrics"]


def test_the_final_metrics_are_those_of_the_best_weights_with_the_final_count_of_samples(train, tmp_path, reference):
    reports = list(train(make(), tmp_path))
    generator = load_generator(tmp_path / BEST)
    expected = reference.evaluate(generator.net, generator.z_dim, 96, fully=True)
    last = reports[-1].metrics
    assert {name: last[f"final_{name}"] for name in expected} == expected
    assert not any(name.startswith("final_") for progress in reports[:-1] for name in progress.metrics)


@pytest.mark.parametrize("architecture", [small_mlp(), small_dcgan()], ids=["mlp", "dcgan"])
def test_the_weights_kept_are_the_averaged_ones_of_the_best_report_and_not_the_last(images, tmp_path, architecture):
    scripted = Scripted([5.0, 2.0, 3.0, 4.0, 1.5])
    reports = list(train_trial(make(architecture=architecture), images, scripted, tmp_path, CPU))
    tensors, meta = read_checkpoint(tmp_path / BEST, "generator")
    assert (meta["score"], meta["samples_seen"]) == (2.0, reports[1].samples_seen)
    assert raw(tensors) == scripted.shown[1][1]
    assert raw(tensors) != scripted.shown[3][1]

    # The final evaluation is of the same weights, and leaves the latest ones as they were.
    assert scripted.shown[4] == (96, scripted.shown[1][1])
    latest, _ = read_checkpoint(tmp_path / LATEST, "trial")
    averaged = {name.removeprefix("ema."): value for name, value in latest.items() if name.startswith("ema.")}
    assert raw(averaged) == scripted.shown[3][1]
    assert reports[-1].metrics["final_fid_scripted"] == 1.5
    assert reports[-1].best_score == 2.0


def test_the_best_score_is_the_least_so_far(images, tmp_path):
    scripted = Scripted([5.0, 2.0, 3.0, 1.0, 1.0])
    reports = list(train_trial(make(), images, scripted, tmp_path, CPU))
    assert [progress.score for progress in reports] == [5.0, 2.0, 3.0, 1.0]
    assert [progress.best_score for progress in reports] == [5.0, 2.0, 2.0, 1.0]


def test_of_two_equal_scores_the_earlier_is_kept(images, tmp_path):
    scripted = Scripted([5.0, 2.0, 2.0, 2.0, 2.0])
    reports = list(train_trial(make(), images, scripted, tmp_path, CPU))
    assert read_checkpoint(tmp_path / BEST, "generator")[1]["samples_seen"] == reports[1].samples_seen


def test_a_resumed_trial_knows_the_best_of_its_earlier_sessions(images, tmp_path):
    first = train_trial(make(), images, Scripted([2.0, 3.0]), tmp_path, CPU)
    reports = [next(first), next(first)]
    first.close()
    second = list(train_trial(make(), images, Scripted([2.5, 4.0, 2.0]), tmp_path, CPU))
    assert [progress.best_score for progress in second] == [2.0, 2.0, 2.0]
    assert read_checkpoint(tmp_path / BEST, "generator")[1]["samples_seen"] == reports[0].samples_seen


def test_a_best_written_just_before_a_kill_gives_way_only_to_a_better_one(images, tmp_path, monkeypatch):
    def killed(self, *arguments):
        raise KeyboardInterrupt

    first = train_trial(make(), images, Scripted([5.0, 2.0]), tmp_path, CPU)
    next(first)
    with monkeypatch.context() as patched:
        patched.setattr(trial_module._Trial, "_write_latest", killed)
        with pytest.raises(KeyboardInterrupt):
            next(first)
    # On a device that does not repeat itself to the bit, the same report may come out worse.
    second = list(train_trial(make(), images, Scripted([3.0, 4.0, 1.0, 1.0]), tmp_path, CPU))
    assert [progress.best_score for progress in second] == [5.0, 2.0, 2.0, 1.0]
    assert read_checkpoint(tmp_path / BEST, "generator")[1]["score"] == 1.0


def test_the_best_file_says_what_it_is(train, tmp_path, reference):
    config = make()
    list(train(config, tmp_path))
    meta = load_generator(tmp_path / BEST).meta
    assert meta["config"] == json.loads(json.dumps(trial_document(config)))
    assert (meta["dims"], meta["class_counts"]) == ([1, 16, 16], [])
    assert (meta["z_dim"], meta["reference"]) == (8, reference.key)


def test_the_best_file_of_networks_that_are_told_classes_says_how_many_of_each_there_are(train, tmp_path, reference):
    list(train(make(architecture=small_mlp(conditional=True)), tmp_path))
    generator = load_generator(tmp_path / BEST)
    assert generator.class_counts == (64, 64, 64, 64)
    measured = reference.evaluate(generator.net, generator.z_dim, 64, class_counts=generator.class_counts)
    assert measured == generator.meta["metrics"]


def test_a_metric_is_reported_beside_the_score_and_the_signals(train, tmp_path, reference):
    progress = next(train(make(), tmp_path))
    assert progress.metrics[reference.named("fid")] == progress.score
    for name in ("recall", "coverage", "diversity", "pixel_diversity", "loss_d", "loss_g", "g_gradient"):
        assert math.isfinite(progress.metrics[name])


def a_loss_that_breaks():
    return Game(d_loss=lambda real, fake: hinge_d(real, fake) * math.nan, g_loss=negated_g)


POISON = {
    "a loss that is not a number": {"loss": component(f"{__name__}:a_loss_that_breaks")},
    "an absurd rate": {"optimizer": component("sgd", momentum=0.0), "lr_g": 1e30},
}


@pytest.mark.parametrize("changes", POISON.values(), ids=POISON)
def test_values_that_are_not_finite_end_a_trial_well_before_its_next_report(train, tmp_path, changes):
    config = make(samples=100_000, objective=objective(reports=2), collapse=CollapseConfig(), **changes)
    (progress,) = train(config, tmp_path)
    assert progress.state == "collapsed"
    assert progress.verdict.state == "diverged"
    assert "not finite" in progress.verdict.cause
    assert progress.samples_seen <= 100 * config.batch_size
    assert progress.score is None
    assert progress.best_score is None
    assert all(math.isfinite(value) for value in progress.metrics.values())
    assert not (tmp_path / BEST).exists()
    assert list(train(config, tmp_path)) == [progress]


def test_values_that_are_not_finite_end_a_trial_though_no_collapse_is_looked_for(train, tmp_path):
    changes = POISON["an absurd rate"]
    (progress,) = train(
        make(samples=100_000, objective=objective(reports=2), collapse=NO_COLLAPSE, **changes), tmp_path
    )
    assert progress.state == "collapsed"
    assert progress.score is None


@pytest.mark.parametrize("collapse", [NO_COLLAPSE, CollapseConfig()], ids=["unwatched", "watched"])
def test_a_score_that_is_not_a_number_ends_a_trial_and_is_never_its_best(images, tmp_path, collapse):
    (progress,) = train_trial(make(collapse=collapse), images, Scripted([math.nan]), tmp_path, CPU)
    assert progress.state == "collapsed"
    assert progress.score is None
    assert progress.best_score is None
    assert not (tmp_path / BEST).exists()


def test_a_trial_that_diverges_later_keeps_the_best_that_it_had(train, tmp_path, monkeypatch):
    step, calls = GANTrainer.step, []

    def breaks_in_step_ten(self, draw_real):
        calls.append(1)
        step(self, draw_real)
        if len(calls) == 10:
            with torch.no_grad():
                next(self.generator.parameters()).fill_(math.nan)

    monkeypatch.setattr(GANTrainer, "step", breaks_in_step_ten)
    reports = list(train(make(collapse=CollapseConfig(warmup=1.0)), tmp_path))
    assert [progress.state for progress in reports] == ["running", "running", "collapsed"]
    assert reports[-1].best_score == min(progress.score for progress in reports[:2])
    assert load_generator(tmp_path / BEST).meta["score"] == reports[-1].best_score


def a_constant_generator(shape, *, z_dim=4):
    networks = mlp(shape, hidden=4, depth=1, z_dim=z_dim)
    for layer in networks.generator:
        for weight in layer.parameters():
            torch.nn.init.zeros_(weight)
    networks.generator[0].requires_grad_(False)
    return networks


def test_a_collapsed_trial_is_never_best(train, tmp_path):
    architecture = component(f"{__name__}:a_constant_generator")
    (progress,) = train(make(architecture=architecture, collapse=CollapseConfig()), tmp_path)
    assert progress.state == "collapsed"
    assert progress.verdict.state == "mode_collapse"
    assert progress.best_score is None
    assert not (tmp_path / BEST).exists()


def test_a_run_that_leaves_its_best_far_behind_ends_and_keeps_it(train, tmp_path, monkeypatch):
    real = CollapseMonitor.observe
    seen = []

    def observe(self, *given):
        seen.append(given)
        return Verdict(state="diverged", cause="far above its best") if len(seen) == 3 else real(self, *given)

    monkeypatch.setattr(CollapseMonitor, "observe", observe)
    first, second, last = train(make(objective=objective(reports=6)), tmp_path)
    assert last.state == "finished"
    assert last.verdict.cause == "far above its best"
    assert last.best_score == min(first.score, second.score)
    assert (tmp_path / BEST).exists()
    assert "final_score" in last.metrics


def test_what_the_collapse_monitor_has_seen_travels_with_the_trial(train, tmp_path):
    strict = CollapseConfig(warmup=0.0, patience=4, min_diversity=1.0, min_improvement=1.0)
    config = make(collapse=strict, objective=objective(reports=8))
    straight = list(train(config, tmp_path / "straight"))
    assert len(straight) == 5  # the first is an improvement on nothing
    assert straight[-1].state == "collapsed"
    assert straight[-1].verdict.evidence["reports_in_a_row"] == 4

    again = train(config, tmp_path / "again")
    for _ in range(3):
        next(again)
    again.close()
    assert untimed(train(config, tmp_path / "again")) == untimed(straight)[2:]
    assert kept(tmp_path / "again") == kept(tmp_path / "straight")


def test_a_target_ends_a_trial_at_the_first_report_that_reaches_it(images, tmp_path):
    scripted = Scripted([5.0, 3.0, 2.0])
    reports = list(train_trial(make(target=3.0), images, scripted, tmp_path, CPU))
    assert [progress.state for progress in reports] == ["running", "finished"]
    assert reports[-1].samples_seen == 128
    assert reports[-1].metrics["final_fid_scripted"] == 2.0
    assert list(train_trial(make(target=3.0), images, Scripted([]), tmp_path, CPU)) == reports[-1:]


def test_a_target_that_is_reached_only_against_a_constraint_does_not_end_a_trial(images, tmp_path):
    demand = Constraint(metric="recall", relation=">=", bound=0.3)
    config = make(target=3.0, objective=objective(constraints=[demand]))
    scripted = Scripted([5.0, 1.0, 2.5, 2.5], [0.5, 0.2, 0.3, 0.5])
    reports = list(train_trial(config, images, scripted, tmp_path, CPU))
    assert [progress.best_score for progress in reports] == [5.0, 5.0, 2.5]
    assert reports[-1].state == "finished"


def test_a_trial_that_never_meets_its_constraint_has_scores_and_no_best(train, tmp_path):
    unmet = Constraint(metric="recall", relation=">=", bound=2.0)
    reports = list(train(make(objective=objective(constraints=[unmet])), tmp_path))
    assert all(progress.score is not None for progress in reports)
    assert all(progress.best_score is None for progress in reports)
    assert reports[-1].state == "finished"
    assert not any(name.startswith("final_") for name in reports[-1].metrics)
    assert not (tmp_path / BEST).exists()


def test_the_best_report_is_the_best_of_those_that_meet_the_constraints(images, tmp_path):
    demands = [
        Constraint(metric="recall", relation=">=", bound=0.3),
        Constraint(metric="recall", relation="<=", bound=0.6),
    ]
    scripted = Scripted([1.0, 4.0, 3.0, 2.0, 9.0], [0.1, 0.3, 0.6, 0.7, 0.5])
    config = make(objective=objective(constraints=demands))
    reports = list(train_trial(config, images, scripted, tmp_path, CPU))
    assert [progress.best_score for progress in reports] == [None, 4.0, 3.0, 3.0]
    assert read_checkpoint(tmp_path / BEST, "generator")[1]["score"] == 3.0


def test_a_metric_that_is_missing_or_not_a_number_meets_no_constraint():
    for relation in ("<=", ">="):
        constraint = Constraint(metric="recall", relation=relation, bound=0.5)
        assert meets((constraint,), {"recall": 0.5})
        assert not meets((constraint,), {})
        assert not meets((constraint,), {"recall": math.nan})
    assert meets((), {})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"samples": 512},
        {"lr_g": 1e-3},
        {"lr_d_ratio": 2.0},
        {"batch_size": 8},
        {"architecture": small_mlp(norm_d="layer")},
        {"loss": component("hinge", d_steps=2)},
        {"penalty": component("r1", weight=0.1)},
        {"optimizer": component("sgd", momentum=0.0)},
        {"optimizer_d": component("sgd", momentum=0.0)},
        {"collapse": CollapseConfig()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_folder_of_another_configuration_is_a_checkpoint_error_and_left_as_it_is(train, tmp_path, change):
    next(train(make(), tmp_path))
    before = kept(tmp_path)
    with pytest.raises(CheckpointError, match="another configuration; use another folder") as caught:
        next(train(make(**change), tmp_path))
    assert str(tmp_path / LATEST) in str(caught.value)
    assert kept(tmp_path) == before


def test_a_trial_continues_where_its_data_lie_elsewhere(train, tmp_path):
    first = next(train(make(), tmp_path))
    again = train(make(data=DataConfig(dataset="/moved/patterns")), tmp_path)
    assert timeless(next(again)) == timeless(first)


def test_a_folder_scored_against_another_reference_is_a_checkpoint_error(images, reference, tmp_path):
    next(train_trial(make(), images, reference, tmp_path, CPU))
    with pytest.raises(CheckpointError, match="another reference") as caught:
        next(train_trial(make(), images, replace(reference, key="other"), tmp_path, CPU))
    assert str(tmp_path / LATEST) in str(caught.value)


@pytest.mark.parametrize("name", [LATEST, BEST])
def test_a_damaged_file_in_the_folder_is_a_checkpoint_error_that_names_it(train, tmp_path, name):
    next(train(make(), tmp_path))
    path = tmp_path / name
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="checksum") as caught:
        next(train(make(), tmp_path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "lost", ["reference", "progress", "monitor", "reports", "rng.data", "rng.global", "g.0.weight"]
)
def test_a_latest_that_lacks_a_part_is_a_checkpoint_error_that_names_the_file(train, tmp_path, lost):
    next(train(make(), tmp_path))
    tensors, meta = read_checkpoint(tmp_path / LATEST, "trial")
    tensors.pop(lost, None)
    meta.pop(lost, None)
    write_checkpoint(tmp_path / LATEST, "trial", tensors, meta)
    with pytest.raises(CheckpointError) as caught:
        next(train(make(), tmp_path))
    assert str(tmp_path / LATEST) in str(caught.value)


def test_a_best_of_a_trial_that_has_no_latest_is_not_taken_for_its_own(train, tmp_path):
    unmet = Constraint(metric="recall", relation=">=", bound=2.0)
    list(train(make(), tmp_path))
    (tmp_path / LATEST).unlink()
    reports = list(train(make(objective=objective(constraints=[unmet])), tmp_path))
    assert reports[-1].best_score is None
    assert not (tmp_path / BEST).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": component("wgan_gp", gp_weight=10.0, d_steps=1)},
        {"penalty": component("gradient_penalty", weight=0.1)},
        {"loss": component("wgan_gp")},
    ],
    ids=["wgan_gp", "hinge", "wgan_gp by default"],
)
def test_a_gradient_penalty_under_a_discriminator_with_batch_norm_is_a_spec_error(train, tmp_path, changes):
    with pytest.raises(SpecError, match=r"norm_d: batch: .*use norm_d: layer, instance, spectral or none"):
        next(train(make(architecture=small_dcgan(), **changes), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_gradient_penalty_under_the_batch_norm_that_dcgan_has_by_default_is_a_spec_error(train, tmp_path):
    config = make(architecture=component("dcgan", width=4), loss=component("wgan_gp", gp_weight=10.0))
    with pytest.raises(SpecError, match=r"norm_d: batch: .*use norm_d: layer, instance, spectral or none"):
        next(train(config, tmp_path))


def test_a_gradient_penalty_and_a_clip_together_are_a_spec_error(train, tmp_path):
    loss, penalty = component("wasserstein", clip=0.01), component("gradient_penalty", weight=1.0)
    with pytest.raises(SpecError, match="use clip: 0 or penalty: none"):
        next(train(make(loss=loss, penalty=penalty), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_no_penalty_goes_with_batch_norm(train, tmp_path):
    config = make(architecture=small_dcgan(), loss=component("hinge"), penalty=component("none"))
    assert next(train(config, tmp_path)).score is not None


def deaf_to_its_rate(*, momentum: float = 0.0):
    return lambda parameters, lr: torch.optim.SGD(parameters, lr=0.1, momentum=momentum)


def deaf_to_its_option(*, momentum: float = 0.0):
    return lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"optimizer": component(f"{__name__}:deaf_to_its_rate")},
            "not in force: the learning rate of optimizer is 0.1 instead of 0.002",
        ),
        (
            {"optimizer_d": component(f"{__name__}:deaf_to_its_rate"), "lr_d_ratio": 2.0},
            "not in force: the learning rate of optimizer_d is 0.1 instead of 0.004",
        ),
        (
            {"optimizer": component(f"{__name__}:deaf_to_its_option", momentum=0.5)},
            "deaf_to_its_option.momentum is 0.9 instead of 0.5",
        ),
    ],
    ids=["rate", "rate of one of two", "momentum"],
)
def test_an_optimizer_that_ignores_what_it_is_given_is_told_before_anything_is_trained(
    train, tmp_path, changes, complaint
):
    with pytest.raises(AuditError) as caught:
        next(train(make(**changes), tmp_path))
    assert complaint in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_rates_that_a_continued_trial_loses_are_told_before_it_trains_on(train, tmp_path, monkeypatch):
    next(train(make(), tmp_path))
    before = kept(tmp_path)
    load_state = GANTrainer.load_state

    def loses_a_rate(self, state):
        load_state(self, state)
        self.optimizer_d.param_groups[0]["lr"] = 1.0

    with monkeypatch.context() as patched:
        patched.setattr(GANTrainer, "load_state", loses_a_rate)
        with pytest.raises(AuditError, match=r"the learning rate of optimizer is 1 instead of 0\.002"):
            next(train(make(), tmp_path))
    assert kept(tmp_path) == before
    assert len(list(train(make(), tmp_path))) == 4


def test_nothing_is_trained_or_written_before_the_first_report_is_asked_for(train, tmp_path):
    train(make(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_two_checkpoints_and_a_picture_of_every_report(train, tmp_path):
    folder = tmp_path / "new" / "trial"
    seen = [progress.samples_seen for progress in train(make(), folder)]
    found = moments(folder)
    assert [*found] == seen
    assert {path.name for path in folder.iterdir()} == {BEST, LATEST, *(path.name for path in found.values())}


def test_pictures_of_reports_show_one_set_of_latents_as_training_goes_on(train, tmp_path):
    list(train(make(), tmp_path / "one"))
    list(train(make(), tmp_path / "again"))
    ones, others = ([path.read_bytes() for path in moments(tmp_path / name).values()] for name in ("one", "again"))
    assert ones == others
    assert len(set(ones)) == len(ones) > 1


def test_progress_survives_json():
    progress = Progress(
        samples_seen=128,
        score=1 / 3,
        best_score=None,
        metrics={"recall": 0.1},
        verdict=Verdict(state="mode_collapse", cause="one picture", evidence={"diversity": 0.25}),
        state="collapsed",
        seconds=1.5,
    )
    assert Progress.from_dict(json.loads(json.dumps(progress.as_dict()))) == progress
