import dataclasses
import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from gantune.config import DataConfig
from gantune.data.data_set import DataSet, open_data, scale
from gantune.errors import CheckpointError, DataError
from gantune.metrics import neighbours
from gantune.metrics.features import FEATURES, auto, extract
from gantune.metrics.frechet import Gaussian, frechet_distance, moments
from gantune.metrics.neighbours import NEIGHBOURS_COVERAGE, NEIGHBOURS_RECALL, distances, radii, spread
from gantune.metrics.reference import Samples, sample
from gantune.metrics.reference_file import load_reference, prepare_reference, reference_wish
from gantune.threads import on_threads

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return open_data(DataConfig(dataset="digits", size=8))


@pytest.fixture(scope="module")
def reference(digits):
    return load_reference(prepare_reference(digits))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def feature_sets():
    plane = normal(5, 32, seed=9)
    widths = torch.logspace(-2, 2, 24)
    return {
        "ordinary": (normal(500, 16), 1.2 * normal(400, 16, seed=1) + 0.3),
        "fewer pictures than features": (normal(20, 64), normal(30, 64, seed=1) + 0.5),
        "few fakes": (normal(300, 64), normal(20, 64, seed=1)),
        "planes apart": (normal(300, 5) @ plane, normal(200, 5, seed=1) @ normal(5, 32, seed=2)),
        "one plane": (normal(300, 5) @ plane, normal(200, 5, seed=1) @ plane * 1.5 + 2),
        "scales from 0.01 to 100": (normal(300, 24) * widths, normal(300, 24, seed=1) * widths * 1.1),
        "sparse": ((normal(300, 32) - 1).relu(), (normal(300, 32, seed=1) - 1.2).relu()),
        "dead features": (nn.functional.pad(normal(300, 8), (0, 8)), nn.functional.pad(normal(300, 8) + 1, (0, 8))),
        "one constant picture": (normal(300, 16), normal(1, 16, seed=1).repeat(200, 1)),
    }


SETS = feature_sets()
each_set = pytest.mark.parametrize("name", SETS)


def distance(real, fake):
    return frechet_distance(Gaussian.fit(real), fake)


# Fréchet distance


@each_set
def test_frechet_distance_is_the_formula_with_a_matrix_root(name):
    real, fake = (features.double().numpy() for features in SETS[name])
    real_covariance, fake_covariance = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        root = scipy.linalg.sqrtm(real_covariance @ fake_covariance).real
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(real_covariance + fake_covariance - 2 * root)
    assert distance(*SETS[name]) == pytest.approx(expected, rel=1e-6)


@each_set
def test_frechet_distance_is_the_formula_with_singular_values(name):
    """tr (S_r S_f)^(1/2) is the sum of the singular values of X_r X_f^T, X being centred: exact for any rank."""
    real, fake = (features.double() for features in SETS[name])
    centred = [(values - values.mean(0)) / math.sqrt(len(values) - 1) for values in (real, fake)]
    trace = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    gap = (real.mean(0) - fake.mean(0)).square().sum()
    expected = gap + centred[0].square().sum() + centred[1].square().sum() - 2 * trace
    assert distance(*SETS[name]) == pytest.approx(float(expected), rel=1e-6)


class Pixels(nn.Module):
    num_features = 16

    def forward(self, pictures):
        return pictures.flatten(1).double() / 16


@pytest.mark.parametrize(("reals", "fakes"), [(400, 300), (400, 10), (12, 9)])
def test_frechet_distance_is_that_of_torchmetrics(reals, fakes):
    generator = torch.Generator().manual_seed(3)
    real = torch.randint(0, 256, (reals, 1, 4, 4), generator=generator, dtype=torch.uint8)
    fake = torch.randint(0, 200, (fakes, 1, 4, 4), generator=generator, dtype=torch.uint8)
    oracle = FrechetInceptionDistance(feature=Pixels()).set_dtype(torch.float64).eval()
    oracle.update(real, real=True)
    oracle.update(fake, real=False)
    assert distance(Pixels()(real), Pixels()(fake)) == pytest.approx(float(oracle.compute()), rel=1e-6)


@each_set
def test_distance_of_a_set_to_itself_is_nothing(name):
    for features in SETS[name]:
        size = float(moments(features)[1].trace())
        assert 0 <= distance(features, features) < 1e-6 * max(1.0, size)


@each_set
def test_distance_of_a_moved_set_is_the_square_of_the_way(name):
    real = SETS[name][0].double()
    way = normal(real.shape[1], seed=5).double() + 1
    assert distance(real, real + way) == pytest.approx(float(way.square().sum()), rel=1e-6)


def test_distance_is_symmetric_and_does_not_depend_on_order_or_rotation():
    real, fake = (features.double() for features in SETS["ordinary"])
    expected = distance(real, fake)
    turn = torch.linalg.qr(normal(16, 16, seed=4).double()).Q
    assert distance(fake, real) == pytest.approx(expected, rel=1e-9)
    assert distance(real.flip(0), fake.flip(0)) == pytest.approx(expected, rel=1e-9)
    assert distance(real @ turn, fake @ turn) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_distance_of_features_that_are_not_finite_is_nan(value):
    real, fake = SETS["ordinary"]
    fake = fake.clone()
    fake[7, 3] = value
    assert math.isnan(distance(real, fake))


# Precision, recall, density, coverage, spread


def precision(real, fake, k=NEIGHBOURS_RECALL):
    return neighbours.precision(distances(real, fake), radii(real, k))


def recall(real, fake, k=NEIGHBOURS_RECALL):
    return neighbours.recall(distances(real, fake), radii(fake, k))


def density(real, fake, k=NEIGHBOURS_COVERAGE):
    return neighbours.density(distances(real, fake), radii(real, k), k)


def coverage(real, fake, k=NEIGHBOURS_COVERAGE):
    return neighbours.coverage(distances(real, fake), radii(real, k))


def test_a_set_reaches_all_of_itself():
    features = normal(300, 16)
    assert recall(features, features) == 1
    assert coverage(features, features) == 1


def test_a_set_far_away_reaches_nothing():
    features = normal(300, 16)
    assert recall(features, features + 100) == 0
    assert coverage(features, features + 100) == 0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_share_of_the_modes_reaches_that_share(share):
    centres = 20 * torch.arange(8.0)[:, None]
    real = (centres[:, None] + normal(8, 100, 2, seed=2)).flatten(0, 1)
    kept = centres[: round(8 * share)]
    fake = (kept[:, None] + normal(len(kept), 100, 2, seed=3)).flatten(0, 1)
    assert recall(real, fake) == pytest.approx(share, abs=0.05)
    assert coverage(real, fake) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 5])
def test_recall_and_coverage_are_their_definitions(seed, k):
    real = normal(60, 4, seed=seed)
    fake = 0.8 * normal(45, 4, seed=seed + 100) + 0.3

    def gaps(ones, others):
        return np.array([[math.dist(one, other) for other in others] for one in ones.tolist()])

    across = gaps(real, fake.tolist())
    real_balls = np.sort(gaps(real, real.tolist()))[:, k]
    fake_balls = np.sort(gaps(fake, fake.tolist()))[:, k]
    inside = sum(any(across[i, j] <= fake_balls[j] for j in range(45)) for i in range(60))
    covered = sum(any(across[i, j] <= real_balls[i] for j in range(45)) for i in range(60))
    assert recall(real, fake, k) == inside / 60
    assert coverage(real, fake, k) == covered / 60


def test_shrunk_features_lose_recall_before_they_gain_it_back():
    real = normal(500, 32)
    recalls = [recall(real, normal(500, 32, seed=1) * size) for size in (1.0, 0.9, 0.7, 0.3, 0.0)]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[-1] == 0


def test_spread_of_identical_pictures_is_nothing_and_grows_with_their_size():
    points = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert spread(points[:1].repeat(50, 1, 1, 1)) == 0
    assert spread(points * 1.0) == spread(points)
    assert spread(points * 0.5) == pytest.approx(0.5 * spread(points))
    assert spread(torch.tensor([[0.0], [3.0]])) == 3


# Features


def test_features_are_the_same_for_the_same_data_and_leave_the_global_streams_alone(
    digits, reference, tmp_path, monkeypatch
):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with on_threads(3):  # as on a machine with other cores
        again = load_reference(prepare_reference(digits))
        assert torch.get_num_threads() == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    expected = reference.net.state_dict()
    found = again.net.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (again.key, again.accuracy) == (reference.key, reference.accuracy)
    assert not again.net.training


def test_the_classifier_knows_unseen_digits(reference):
    assert reference.named("fid") == "fid_classifier"
    assert reference.accuracy >= 0.95


def test_pictures_without_labels_are_learned_by_rotation(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    unlabelled = dataclasses.replace(digits, labels=None, key="unlabelled", examples=digits.examples[:600])
    told = []
    found = load_reference(prepare_reference(unlabelled, report=told.append))
    assert found.named("fid") == "fid_rotation"
    assert found.net.head.out_features == 4
    assert found.accuracy > 0.6  # a guess is right in 0.25
    assert any("rotation" in text for text in told)
    assert "fid_rotation" in found.measure(Samples(torch.from_numpy(digits.examples[600:800].copy())))


def test_features_of_a_picture_do_not_depend_on_its_company(digits, reference):
    pixels = torch.from_numpy(digits.examples[:700].copy())
    together = extract(reference.net, pixels, CPU)
    alone = torch.cat([extract(reference.net, pixels[i : i + 1], CPU) for i in (0, 499, 500, 699)])
    assert together.shape == (700, FEATURES)
    assert torch.allclose(together[[0, 499, 500, 699]], alone, rtol=1e-4, atol=1e-4)


def test_features_take_three_channels():
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(64) % 2
    colour = DataSet(name="noise", key="colour", examples=images, labels=labels, class_names=())
    net = auto(colour.shape)
    net.learn(colour)
    assert extract(net, torch.from_numpy(images), CPU).shape == (64, FEATURES)


# The reference


def real_pixels(digits, count, seed=0):
    chosen = np.random.default_rng(seed).permutation(len(digits.examples))[:count]
    return torch.from_numpy(digits.examples[chosen])


def test_a_reference_is_made_once_and_read_back_the_same(digits, reference):
    def unexpected(text):
        raise AssertionError(text)

    path = prepare_reference(digits, report=unexpected)
    again = load_reference(path)
    pixels = real_pixels(digits, 400)
    assert again.key == reference.key
    assert again.measure(Samples(pixels)) == reference.measure(Samples(pixels))
    for name in ("noise_scores", "feature_spread", "pixel_spread", "accuracy", "label", "rank", "known"):
        assert getattr(again, name) == getattr(reference, name)


def test_a_damaged_reference_is_refused_by_name(digits, reference, tmp_path):
    path = tmp_path / "reference.safetensors"
    content = bytearray(prepare_reference(digits).read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"reference\.safetensors.*checksum"):
        load_reference(path)


def test_real_pictures_measure_as_the_yardstick_itself(digits, reference):
    found = reference.measure(Samples(torch.from_numpy(digits.examples[digits.train_rows])))
    assert found[reference.named("fid")] == pytest.approx(0, abs=0.01)
    assert found["recall"] > 0.9
    assert found["coverage"] > 0.9
    assert found["diversity"] == pytest.approx(1, abs=0.05)
    assert found["pixel_diversity"] == pytest.approx(1, abs=0.05)


def test_noise_scores_as_the_reference_says_and_reaches_nothing(digits, reference):
    noise = torch.randint(0, 256, (1000, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    found = reference.measure(Samples(noise))
    assert found[reference.named("fid")] == pytest.approx(reference.noise_scores["fid"], rel=0.05)
    assert found["coverage"] < 0.05
    assert (
        reference.noise_scores["fid"]
        > 10 * reference.measure(Samples(real_pixels(digits, 1000)))[reference.named("fid")]
    )


def test_one_picture_again_and_again_has_no_diversity(digits, reference):
    found = reference.measure(Samples(real_pixels(digits, 1).repeat(200, 1, 1, 1)))
    assert found["diversity"] == pytest.approx(0, abs=1e-6)
    assert found["pixel_diversity"] == 0
    assert found["recall"] < 0.05


def test_dropped_classes_lose_recall_and_coverage(digits, reference):
    chosen = np.random.default_rng(0).permutation(len(digits.examples))
    whole = torch.from_numpy(digits.examples[chosen[:700]])
    without_one = torch.from_numpy(digits.examples[[i for i in chosen if digits.labels[i] != 3][:700]])
    half = torch.from_numpy(digits.examples[[i for i in chosen if digits.labels[i] < 5][:700]])
    found = [reference.measure(Samples(pixels)) for pixels in (whole, without_one, half)]
    for name in ("recall", "coverage"):
        values = [metrics[name] for metrics in found]
        assert values[0] > values[1] > values[2]
        assert values[1] == pytest.approx(values[0] * 0.9, abs=0.05)
        assert values[2] < 0.6


def test_pictures_shrunk_to_their_mean_lose_diversity_and_recall(digits, reference):
    pixels = real_pixels(digits, 700).float()
    shrunk = (pixels.mean(0) + 0.4 * (pixels - pixels.mean(0))).round().to(torch.uint8)
    before, after = reference.measure(Samples(pixels.to(torch.uint8))), reference.measure(Samples(shrunk))
    assert after["pixel_diversity"] == pytest.approx(0.4 * before["pixel_diversity"], rel=0.05)
    for name in ("diversity", "recall", "coverage"):
        assert after[name] < before[name]
    assert after[reference.named("fid")] > before[reference.named("fid")]


class Tiles:
    """A generator that draws real pictures, chosen by the latent, and remembers what it was asked for."""

    def __init__(self, digits, spoil=None):
        self._pictures = scale(torch.from_numpy(digits.examples[:500].copy()))
        self._spoil = spoil
        self.latents = []

    def __call__(self, latents):
        self.latents.append(latents.clone())
        drawn = self._pictures[(latents[:, 0] * 1e4).long() % 500].clone()
        if self._spoil is not None and len(self.latents) == 2:
            drawn[3, 0, 4, 4] = self._spoil
        return drawn


def test_evaluating_twice_gives_identical_values_and_touches_no_global_stream(digits, reference):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = Tiles(digits), Tiles(digits)
    found = reference.evaluate(first, 16, 700)
    torch.manual_seed(4)
    assert reference.evaluate(second, 16, 700) == found
    torch.manual_seed(3)
    reference.evaluate(second, 16, 700)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(map(len, first.latents)) == 700
    assert torch.equal(torch.cat(first.latents), torch.cat(second.latents[: len(first.latents)]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_value_that_is_not_finite_makes_the_distance_nan(digits, reference, value):
    found = reference.evaluate(Tiles(digits, spoil=value), 16, 700)
    assert list(found) == [reference.named("fid")]
    assert math.isnan(found[reference.named("fid")])


def test_samples_depend_on_the_seed_alone(digits):
    first = sample(Tiles(digits), 16, 64, CPU, seed=1)
    assert first.shape == (64, 1, 8, 8)
    assert first.dtype == torch.uint8
    assert torch.equal(sample(Tiles(digits), 16, 64, CPU, seed=1), first)
    assert not torch.equal(sample(Tiles(digits), 16, 64, CPU, seed=2), first)


def test_evaluating_needs_no_gradients(digits, reference):
    seen = []

    def generate(latents):
        seen.append(torch.is_grad_enabled())
        return torch.zeros(len(latents), 1, 8, 8)

    reference.evaluate(generate, 16, 64)
    assert seen == [False]


class Listener:
    """A generator that notes the labels it is told, and draws black pictures."""

    def __init__(self):
        self.told = []

    def __call__(self, latents, *labels):
        self.told.extend(labels)
        return -torch.ones(len(latents), 1, 8, 8)


def test_labels_are_drawn_in_the_real_datas_proportions_and_for_conditional_generators_alone(reference):
    plain, conditional = Listener(), Listener()
    reference.evaluate(plain, 4, 600)
    assert plain.told == []
    reference.evaluate(conditional, 4, 3000, class_counts=(10, 0, 70, 20))
    found = torch.bincount(torch.cat(conditional.told), minlength=4) / 3000
    assert found[1] == 0
    assert found.tolist() == pytest.approx([0.1, 0.0, 0.7, 0.2], abs=0.03)  # four deviations


def test_latents_are_the_same_with_and_without_labels(digits):
    plain, conditional = Tiles(digits), Tiles(digits)
    sample(plain, 16, 64, CPU, seed=1)
    sample(lambda latents, labels: conditional(latents), 16, 64, CPU, seed=1, class_counts=(1, 1))
    assert torch.equal(torch.cat(plain.latents), torch.cat(conditional.latents))


def test_points_are_sampled_as_they_are_and_not_quantised():
    points = sample(lambda latents: latents * 1e-3, 2, 70, CPU, seed=1)
    assert points.dtype == torch.float32
    assert len(points.unique(dim=0)) == 70
    assert points.abs().max() < 0.01


def test_pictures_that_are_all_the_same_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    flat = DataSet(name="flat", key="flat", examples=np.zeros((80, 1, 8, 8), np.uint8), labels=None, class_names=())
    with pytest.raises(DataError, match="all the same"):
        prepare_reference(flat)


def test_a_damaged_cached_reference_is_made_again(tmp_path, monkeypatch, digits):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    path = prepare_reference(digits)
    path.write_bytes(path.read_bytes()[:100])
    assert load_reference(prepare_reference(digits)).wish == reference_wish(digits)
