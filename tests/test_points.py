import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gantune.config import (
    CollapseConfig,
    Component,
    DataConfig,
    ObjectiveConfig,
    SampleCounts,
    TrialConfig,
)
from gantune.data.data_set import BatchSource, open_data, quantise, scale
from gantune.errors import DataError, SpecError
from gantune.export import export, load_generator
from gantune.metrics.reference import Samples
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.models.networks import PointShape
from gantune.pictures import cloud
from gantune.reports import BEST
from gantune.trial import train_trial

CPU = torch.device("cpu")
CLASSES = {"gaussians8": 8, "gaussians25": 25, "swiss_roll": 10}
MIXTURES = {"gaussians8": 0.02, "gaussians25": 0.05}  # with each mode's deviation, as published

each_set = pytest.mark.parametrize("name", CLASSES)
each_mixture = pytest.mark.parametrize("name", MIXTURES)


def points_of(name):
    return open_data(DataConfig(dataset=name))


def published_centres(name):
    if name == "gaussians8":
        return np.array([(math.cos(mode * math.pi / 4), math.sin(mode * math.pi / 4)) for mode in range(8)])
    return np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], dtype=float)


def matched(found, wanted):
    """The wanted centres in the order of those found, under the one scale and shift that fit best."""
    wanted = wanted - wanted.mean(0)
    wanted = wanted * (found.std() / wanted.std())
    nearest = np.linalg.norm(found[:, None] - found.mean(0) - wanted, axis=2).argmin(1)
    return wanted[nearest] + found.mean(0), nearest


def centres_of(data):
    """The mean of every class."""
    return np.stack([data.examples[data.labels == label].mean(0) for label in range(len(data.class_names))])


@pytest.fixture(scope="module")
def reference():
    return load_reference(prepare_reference(points_of("gaussians8")))


def ring(count):
    angles = torch.linspace(0, 2 * math.pi, count + 1)[:-1]
    radius = float(np.linalg.norm(points_of("gaussians8").examples, axis=1).mean())
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def held_out(count):
    """Real points of which the reference has not seen one: drawn from the published modes anew."""
    data = points_of("gaussians8")
    draws = np.random.default_rng(5)
    labels = draws.integers(8, size=count)
    deviation = np.stack([data.examples[data.labels == label].std(0) for label in range(8)])
    points = centres_of(data)[labels] + draws.normal(0, 1, (count, 2)) * deviation[labels]
    return torch.from_numpy(points.astype(np.float32))


def one_mode(count):
    data = points_of("gaussians8")
    return torch.from_numpy(data.examples[data.labels == 0][:count])


# Data


@each_set
def test_points_are_many_finite_and_of_unit_deviation_around_0(name):
    data = points_of(name)
    assert data.name == name
    assert data.examples.shape == (20_000, 2)
    assert data.examples.dtype == np.float32
    assert np.isfinite(data.examples).all()
    assert data.examples.mean(0) == pytest.approx([0, 0], abs=1e-4)
    assert data.examples.std() == pytest.approx(1, abs=1e-4)
    assert data.examples.std(0) == pytest.approx([1, 1], abs=0.05)


@each_set
def test_shape_is_of_points_with_a_class_for_every_name(name):
    data = points_of(name)
    assert data.shape == PointShape(2, CLASSES[name])
    assert len(data.class_names) == len(data.class_counts) == CLASSES[name]
    assert sum(data.class_counts) == len(data.examples)
    assert min(data.class_counts) > 0.85 * 20_000 / CLASSES[name]


@each_set
def test_points_are_the_same_every_time_and_named_so(name):
    first, second = points_of(name), points_of(name)
    assert np.array_equal(first.examples, second.examples)
    assert np.array_equal(first.labels, second.labels)
    assert first.key == second.key


def test_sets_have_keys_of_their_own():
    assert len({points_of(name).key for name in CLASSES}) == len(CLASSES)


def test_global_stream_of_numpy_is_neither_read_nor_moved():
    np.random.seed(1)
    before = points_of("swiss_roll").examples
    drawn = np.random.random()
    np.random.seed(1)
    assert np.random.random() == drawn
    assert np.array_equal(points_of("swiss_roll").examples, before)


@each_mixture
def test_modes_stand_where_they_are_published_and_as_wide(name):
    data = points_of(name)
    wanted, nearest = matched(centres_of(data), published_centres(name))
    unit = published_centres(name).std() / centres_of(data).std()
    assert sorted(nearest) == list(range(CLASSES[name]))
    deviation = MIXTURES[name] / unit
    assert np.abs(centres_of(data) - wanted).max() < 0.5 * deviation
    for label in range(CLASSES[name]):
        assert data.examples[data.labels == label].std(0) == pytest.approx(deviation, rel=0.1)


@each_mixture
def test_labels_are_the_modes(name):
    data = points_of(name)
    centres = centres_of(data)
    unit = published_centres(name).std() / centres.std()
    deviation = MIXTURES[name] / unit
    assert (np.abs(data.examples - centres[data.labels]) <= 5 * deviation).all()
    distances = np.linalg.norm(data.examples[:, None] - centres, axis=2)
    assert np.array_equal(distances.argmin(1), data.labels)


def test_stretches_of_the_spiral_follow_one_another():
    data = points_of("swiss_roll")
    points, labels = data.examples[:2000], data.labels[:2000]
    distances = np.linalg.norm(points[:, None] - points, axis=2) + 9 * np.eye(2000)
    steps = np.abs(labels - labels[distances.argmin(1)])
    assert (steps <= 1).mean() > 0.999
    radii = np.linalg.norm(centres_of(data) - data.examples[data.labels == 0].mean(0), axis=1)
    assert radii.argmin() == 0


@each_set
def test_batches_are_points_of_the_set_with_their_own_labels(name):
    data = points_of(name)
    batch = BatchSource(data, CPU, seed=3).draw(64)
    assert (batch.samples.shape, batch.samples.dtype) == ((64, 2), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((64,), torch.int64)
    known = {(*point, label) for point, label in zip(data.examples.tolist(), data.labels.tolist(), strict=True)}
    drawn = zip(batch.samples.tolist(), batch.labels.tolist(), strict=True)
    assert all((*point, label) in known for point, label in drawn)


def test_points_are_neither_scaled_nor_rounded():
    points = torch.tensor([[-3.25, 0.1], [7.0, 1e-3]])
    assert torch.equal(scale(points), points)
    assert torch.equal(quantise(points), points)


@pytest.mark.parametrize("architecture", ["dcgan", "resnet", "r3gan"])
def test_networks_for_pictures_are_refused(architecture, reference, tmp_path):
    config = make(architecture=component(architecture))
    with pytest.raises(SpecError, match=r"its convolutions need pictures.*use architecture: mlp"):
        next(train_trial(config, points_of("gaussians8"), reference, tmp_path, CPU))


# The yardstick


def test_features_name_unseen_points_rightly(reference):
    assert reference.named("fid") == "fid_classifier"
    assert reference.accuracy > 0.99


def test_real_points_score_far_better_than_a_ring_without_modes_and_that_better_than_noise(reference):
    real = reference.measure(Samples(held_out(2500)))
    round_and_round = reference.measure(Samples(ring(2500)))
    assert real["fid_classifier"] < 0.2 * round_and_round["fid_classifier"]
    assert round_and_round["fid_classifier"] < 0.5 * reference.noise_scores["fid"]
    assert real["coverage"] > 2 * round_and_round["coverage"]
    assert real["recall"] > 0.9
    assert real["diversity"] == pytest.approx(1, abs=0.1)


def test_generator_of_a_single_mode_scores_worst_and_is_not_diverse(reference):
    lost = reference.measure(Samples(one_mode(2400)))
    assert lost["fid_classifier"] > 100 * reference.measure(Samples(ring(2400)))["fid_classifier"]
    assert lost["diversity"] < 0.1
    assert lost["coverage"] < 0.3


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_every_lost_mode_costs(reference, lost):
    data = points_of("gaussians8")

    def score(modes):
        kept = torch.from_numpy(data.examples[data.labels < modes][:2000])
        return reference.measure(Samples(kept))["fid_classifier"]

    assert score(8 - lost) > score(8 - lost + 1) + 0.3


def test_point_that_is_not_finite_has_no_score(reference):
    found = reference.evaluate(lambda latents: latents / 0, 2, 128)
    assert set(found) == {"fid_classifier"}
    assert math.isnan(found["fid_classifier"])


def test_features_of_points_need_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    bare = replace(points_of("gaussians8"), labels=None, class_names=(), key="bare")
    assert bare.shape == PointShape(2, 0)
    with pytest.raises(DataError, match="points need labels"):
        prepare_reference(bare)
    assert not list(tmp_path.rglob("*.safetensors"))


# A trial


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def make(**changes):
    values = {
        "data": DataConfig(dataset="gaussians8"),
        "objective": ObjectiveConfig(samples=SampleCounts(report=500, final=1000), reports=4),
        "collapse": CollapseConfig(enabled=False),
        "samples": 6400,
        "target": None,
        "seed": 0,
        "architecture": component("mlp", hidden=32, depth=2, z_dim=2),
        "loss": component("non_saturating"),
        "penalty": component("r1", weight=0.1),
        "optimizer": component("adam", beta1=0.5, beta2=0.9),
        "lr_g": 2e-3,
        "batch_size": 64,
    }
    return TrialConfig(**{**values, **changes})


@pytest.mark.parametrize("conditional", [False, True])
def test_trial_learns_exports_and_draws_points(conditional, reference, tmp_path):
    config = make(architecture=component("mlp", hidden=32, depth=2, z_dim=2, conditional=conditional))
    reports = list(train_trial(config, points_of("gaussians8"), reference, tmp_path / "trial", CPU))
    assert [report.state for report in reports] == ["running"] * 3 + ["finished"]
    assert reports[-1].best_score == min(report.score for report in reports)
    assert reports[-1].best_score < reports[0].score
    assert reports[-1].metrics["final_fid_classifier"] == pytest.approx(reports[-1].best_score, rel=0.5)

    export(tmp_path / "trial" / BEST, tmp_path / "winner")
    generator = load_generator(tmp_path / "winner")
    points = generator.draw(300)
    assert (points.shape, points.dtype) == ((300, 2), np.float32)
    assert np.isfinite(points).all()
    assert np.array_equal(points, load_generator(tmp_path / "trial" / BEST).draw(300))
    assert not np.array_equal(points, generator.draw(300, seed=1))
    assert generator.class_counts == (points_of("gaussians8").class_counts if conditional else ())

    picture = np.asarray(Image.open(tmp_path / "winner" / "samples.png"))
    assert np.array_equal(picture, np.asarray(cloud(generator.draw(5000))))
    assert (picture < 255).any()
    assert (picture == 255).mean() > 0.5


def test_trial_on_points_is_the_same_every_time(reference, tmp_path):
    def run(folder):
        reports = train_trial(make(samples=1280), points_of("gaussians8"), reference, tmp_path / folder, CPU)
        return [replace(report, seconds=0.0) for report in reports]

    assert run("a") == run("b")


def test_cloud_is_dark_where_the_points_are_and_white_elsewhere():
    corner = np.full((200, 2), (1.5, 2.0), dtype=np.float32)  # to the right and up
    picture = np.asarray(cloud(corner))
    side = len(picture)
    rows, columns = np.nonzero(picture < 255)
    assert columns.mean() / side == pytest.approx(0.5 + 1.5 / 6, abs=0.01)
    assert rows.mean() / side == pytest.approx(0.5 - 2.0 / 6, abs=0.01)
    assert len(rows) < 0.001 * picture.size


def test_points_beyond_the_frame_leave_no_mark():
    assert (np.asarray(cloud(np.full((50, 2), 99.0, dtype=np.float32))) == 255).all()
