import dataclasses
import re
import statistics
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from gantune.config import Component, DataConfig, ObjectiveConfig, SampleCounts
from gantune.data.data_set import open_data
from gantune.errors import DataError
from gantune.metrics import frechet, kernel, neighbours, reference_file
from gantune.metrics import reference as yardstick
from gantune.metrics.classes import FOUND, inception_score, modes
from gantune.metrics.features import extract
from gantune.metrics.frechet import (
    Gaussian,
    effective_rank,
    frechet_distance,
    frechet_distance_at_infinity,
    moments,
)
from gantune.metrics.kernel import kernel_distance, self_similarity
from gantune.metrics.neighbours import (
    NEIGHBOURS_COVERAGE,
    NEIGHBOURS_RECALL,
    coverage,
    density,
    distances,
    memorisation,
    nearest,
    precision,
    radii,
    recall,
)
from gantune.metrics.reference import Samples
from gantune.metrics.reference_file import LEAST_PER_FEATURE, check_reference, load_reference, prepare_reference

CPU = torch.device("cpu")
FOUR_DIGITS = 1e-4
ABSENT = 3  # the class that some generators never draw


def stream(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return open_data(DataConfig(dataset="digits", size=8))


@pytest.fixture(scope="module")
def reference(digits):
    return load_reference(prepare_reference(digits))


@pytest.fixture(scope="module")
def features(digits, reference):
    """Of all digits, [1797, 64], and their classes."""
    return extract(reference.net, torch.from_numpy(np.array(digits.examples)), CPU), torch.from_numpy(digits.labels)


# Three sets of features, and generators that each miss the real one in a way of its own


def sparse(count, seed):
    """Wider than there are samples, non-negative, mostly 0, as behind a ReLU."""
    draws = stream(seed)
    labels = torch.randint(10, (count,), generator=draws)
    patterns = torch.randn(10, 400, generator=stream(99))
    return (0.7 * patterns[labels] + torch.randn(count, 400, generator=draws) - 1).relu(), labels


def correlated(count, seed):
    draws = stream(seed)
    labels = torch.randint(10, (count,), generator=draws)
    centres = 2 * torch.randn(10, 48, generator=stream(98))
    mix = torch.randn(48, 48, generator=stream(97)) / 48**0.5
    return centres[labels] + torch.randn(count, 48, generator=draws) @ mix, labels


def shifted(fake, labels):
    return fake + 0.3 * fake.std()


def shrunk(fake, labels):
    return fake.mean(0) + 0.8 * (fake - fake.mean(0))


def dropped(fake, labels):
    return fake[labels != ABSENT]


SPOILED = {"shifted": shifted, "shrunk": shrunk, "a class dropped": dropped}


@pytest.fixture(scope="module", params=["digits", "sparse", "correlated"])
def drawn(request, features):
    """Real features, and fresh ones of the same kind with their classes."""
    if request.param == "digits":
        order = torch.randperm(len(features[0]), generator=stream(5))
        rows, rest = order[:900], order[900:]
        return features[0][rows], (features[0][rest], features[1][rest])
    draw = {"sparse": sparse, "correlated": correlated}[request.param]
    return draw(300, 1)[0], draw(300, 2)


@pytest.fixture(params=SPOILED)
def pair(request, drawn):
    """Real and fake features in float64, so that the oracles round no more than they must."""
    real, fresh = drawn
    return real.double(), SPOILED[request.param](*fresh).double()


class Passed(nn.Module):
    """Gives a metric that wants to see pictures the features themselves."""

    def __init__(self, width):
        super().__init__()
        self.num_features = width

    def forward(self, features):
        return features


# The oracles


def distance(real, fake):
    return frechet_distance(Gaussian.fit(real), fake)


def test_frechet_distance_is_that_of_torchmetrics(pair):
    real, fake = pair
    oracle = FrechetInceptionDistance(feature=Passed(real.shape[1])).set_dtype(torch.float64).eval()
    oracle.update(real, real=True)
    oracle.update(fake, real=False)
    assert distance(real, fake) == pytest.approx(float(oracle.compute()), rel=FOUR_DIGITS)


def test_frechet_distance_is_that_of_torch_fidelity(pair):
    oracle = pytest.importorskip("torch_fidelity.metric_fid")
    statistics_of = [oracle.fid_features_to_statistics(values) for values in pair]
    found = oracle.fid_statistics_to_metric(*statistics_of, verbose=False)[oracle.KEY_METRIC_FID]
    assert distance(*pair) == pytest.approx(found, rel=FOUR_DIGITS)


def as_many(real, fake):
    count = min(len(real), len(fake))  # the oracles know no other case
    return real[:count], fake[:count]


def test_kernel_distance_is_that_of_torchmetrics(pair):
    real, fake = as_many(*pair)
    oracle = KernelInceptionDistance(feature=Passed(real.shape[1]), subsets=1, subset_size=len(real))
    oracle.set_dtype(torch.float64).eval()
    oracle.update(real, real=True)
    oracle.update(fake, real=False)
    assert kernel_distance(real, fake) == pytest.approx(float(oracle.compute()[0]), rel=FOUR_DIGITS)


def test_kernel_distance_is_that_of_torch_fidelity(pair):
    oracle = pytest.importorskip("torch_fidelity.metric_kid")
    real, fake = as_many(*pair)
    options = {"kid_subsets": 1, "kid_subset_size": len(real), "kid_kernel": "poly", "kid_kernel_poly_degree": 3}
    found = oracle.kid_features_to_metric(real, fake, **options, verbose=False)[oracle.KEY_METRIC_KID_MEAN]
    assert kernel_distance(real, fake) == pytest.approx(found, rel=FOUR_DIGITS)


def neighbourhood(real, fake, precise=NEIGHBOURS_RECALL, crowded=NEIGHBOURS_COVERAGE):
    across = distances(real, fake)
    return {
        "precision": precision(across, radii(real, precise)),
        "recall": recall(across, radii(fake, precise)),
        "density": density(across, radii(real, crowded), crowded),
        "coverage": coverage(across, radii(real, crowded)),
    }


def test_precision_and_recall_are_those_of_torch_fidelity(pair):
    oracle = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = pair
    expected = oracle.prc_features_to_metric(fake, real, prc_neighborhood=NEIGHBOURS_RECALL, verbose=False)
    found = neighbourhood(real, fake)
    assert found["precision"] == pytest.approx(expected["precision"], rel=FOUR_DIGITS)
    assert found["recall"] == pytest.approx(expected["recall"], rel=FOUR_DIGITS)


def test_precision_recall_density_and_coverage_are_those_of_prdc(pair):
    oracle = pytest.importorskip("prdc")
    found = neighbourhood(*pair)
    arrays = [values.numpy() for values in pair]
    for neighbour, names in {
        NEIGHBOURS_RECALL: ("precision", "recall"),
        NEIGHBOURS_COVERAGE: ("density", "coverage"),
    }.items():
        expected = oracle.compute_prdc(*arrays, nearest_k=neighbour)
        for name in names:
            assert found[name] == pytest.approx(expected[name], rel=FOUR_DIGITS), name


def test_the_counts_of_neighbours_are_those_that_were_published():
    assert (NEIGHBOURS_RECALL, NEIGHBOURS_COVERAGE) == (3, 5)


def sure(sharpness, count=700):
    return sharpness * torch.randn(count, 10, generator=stream(4))


each_sharpness = pytest.mark.parametrize("sharpness", [0.01, 1.0, 5.0, 100.0])


@each_sharpness
def test_inception_score_is_that_of_torch_fidelity(sharpness):
    oracle = pytest.importorskip("torch_fidelity.metric_isc")
    logits = sure(sharpness)
    expected = oracle.isc_features_to_metric(logits, splits=1)[oracle.KEY_METRIC_ISC_MEAN]
    assert inception_score(logits) == pytest.approx(expected, rel=FOUR_DIGITS)


@each_sharpness
@pytest.mark.filterwarnings("ignore:std")  # torchmetrics takes the deviation of one split
def test_inception_score_is_that_of_torchmetrics(sharpness):
    logits = sure(sharpness).double()
    oracle = InceptionScore(feature=nn.Identity(), splits=1).set_dtype(torch.float64).eval()
    oracle.update(logits)
    assert inception_score(logits) == pytest.approx(float(oracle.compute()[0]), rel=FOUR_DIGITS)


def test_inception_score_runs_from_one_to_the_count_of_classes():
    certain = 1e4 * torch.eye(10).repeat(50, 1)
    assert inception_score(certain) == pytest.approx(10)
    assert inception_score(certain[:1].repeat(50, 1)) == pytest.approx(1)
    assert inception_score(torch.zeros(50, 10)) == pytest.approx(1)


# Laws of the distances


def test_the_distance_of_a_set_from_itself_is_nothing(drawn):
    for found in (drawn[0], drawn[1][0]):
        size = float(moments(found)[1].trace())
        assert 0 <= distance(found / size**0.5, found / size**0.5) < 1e-6
        assert 0 <= distance(found, found) < 1e-6 * max(1.0, size)


@pytest.mark.parametrize("size", [7, 100, 299])
def test_no_value_depends_on_how_many_rows_are_taken_at_a_time(monkeypatch, size):
    real, fake = correlated(300, 1)[0], correlated(299, 2)[0] + 0.3

    def values():
        far = nearest(fake, real)
        return [
            distance(real, fake),
            kernel_distance(real, fake),
            *neighbourhood(real, fake).values(),
            float(far.mean()),
        ]

    expected = values()
    for module in (frechet, kernel, neighbours):
        monkeypatch.setattr(module, "CHUNK", size)
    assert values() == pytest.approx(expected, rel=1e-9)


def test_a_known_self_similarity_saves_work_and_changes_nothing(drawn):
    real, (fake, _) = drawn
    assert kernel_distance(real, fake, self_similarity(real)) == pytest.approx(kernel_distance(real, fake), rel=1e-9)


@pytest.mark.parametrize("count", [10, 100])
def test_the_kernel_distance_of_a_perfect_generator_is_nothing_on_average_from_any_number_of_samples(count):
    found = [kernel_distance(correlated(200, 2 * i)[0], correlated(count, 2 * i + 1)[0]) for i in range(40)]
    assert abs(statistics.mean(found)) < 4 * statistics.stdev(found) / 40**0.5
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize(("move", "size"), [(0.0, 1.0), (0.2, 1.2), (0.0, 0.8), (0.3, 1.0)])
@pytest.mark.parametrize("power", [0.0, 0.25])
def test_the_distance_at_infinity_does_not_depend_on_the_number_of_samples(move, size, power):
    deviations = torch.arange(1, 65).double() ** -power
    real = Gaussian(torch.zeros(64).double(), torch.diag(deviations))
    true = 64 * move**2 + float(((1 - size) * deviations).square().sum())
    plain, endless = [], []
    for seed in range(20):
        fake = move + size * deviations * torch.randn(1000, 64, generator=stream(seed), dtype=torch.float64)
        plain.append(frechet_distance(real, fake) - true)
        endless.append(frechet_distance_at_infinity(real, fake) - true)
    noise = statistics.stdev(endless) / 20**0.5
    assert abs(statistics.mean(endless)) < 0.1 * statistics.mean(plain) + 3 * noise
    assert statistics.mean(plain) > 6 * noise


# What else features tell


@pytest.mark.parametrize("width", [8, 32])
def test_as_many_directions_as_vary_count(width):
    varied = torch.randn(8000, width, generator=stream(1))
    assert effective_rank(varied) == pytest.approx(width, rel=0.02)
    assert effective_rank(1e-3 * varied + 7) == pytest.approx(effective_rank(varied), rel=1e-6)
    assert effective_rank(varied @ torch.randn(width, 200, generator=stream(2))) < width
    assert effective_rank(varied[:1].repeat(50, 1)) == pytest.approx(1, abs=0.01)
    assert effective_rank(varied[:, :1] * torch.ones(width)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("absent", [[], [3], [0, 9], [0, 1, 2, 3, 4], list(range(9))])
def test_classes_that_are_never_drawn_are_missed(reference, features, absent):
    found, labels = features
    kept = found[~torch.isin(labels, torch.tensor(absent, dtype=torch.int64))]
    logits = reference.net.classify(kept)
    assert modes(logits, reference.class_shares) == pytest.approx(1 - len(absent) / 10)


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (29, 2 / 3),
        (30, 1),
        (31, 1),
    ],
)
def test_a_class_counts_from_a_tenth_of_its_real_share(count, found):
    drawn = torch.tensor([0] * 500 + [1] * count + [2] * (500 - count))
    real_shares = torch.tensor([0.5, 0.3, 0.2, 0.0])
    assert round(FOUND * 0.3 * len(drawn)) == 30
    assert modes(nn.functional.one_hot(drawn, 4).float(), real_shares) == pytest.approx(found)


@cache
def training():
    """2,000 training features, how near unseen ones lie to them, and fresh draws."""
    train, held, fresh = (
        torch.randn(count, 16, generator=stream(seed)) for seed, count in ((1, 2000), (2, 500), (3, 250))
    )
    return train, held, fresh


def test_new_samples_are_as_far_from_the_training_data_as_unseen_reals():
    train, held, fresh = training()
    assert memorisation(train, nearest(held, train), fresh) == pytest.approx(1, abs=0.1)


def test_copies_are_at_no_distance_from_the_training_data():
    train, held, _ = training()
    copies = train[torch.randint(2000, (250,), generator=stream(4))]
    assert memorisation(train, nearest(held, train), copies) < 1e-3
    assert memorisation(train, nearest(held, train), copies + 1e-3) < 0.01


def test_copies_show_where_only_a_fifth_of_the_training_data_is_known():
    train, held, fresh = training()
    known = train[:400]
    copies = train[torch.randint(2000, (250,), generator=stream(4))]
    near = nearest(held, known)
    assert memorisation(known, near, copies, known=0.2) < 1e-3
    assert memorisation(known, near, copies) > 0.5  # as if all were known: most copies look new
    assert memorisation(known, near, fresh, known=0.2) == pytest.approx(1, abs=0.15)


def test_a_reference_that_keeps_a_part_of_the_features_still_sees_copies(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    for module in (yardstick, reference_file):
        monkeypatch.setattr(module, "KERNEL", 320)
    monkeypatch.setattr(reference_file, "KEPT_BYTES", 1)
    found = load_reference(prepare_reference(digits, Component(name="pixels")))
    assert found.known == pytest.approx(0.2, abs=0.01)
    copies = digits.examples[np.random.default_rng(0).choice(digits.train_rows, 250)]
    assert found.measure(Samples(torch.from_numpy(copies)))["memorisation"] < 1e-3
    assert found.measure(Samples(found.held))["memorisation"] == pytest.approx(1, abs=0.1)


# What a score is for: too little variety never looks better


def worse(score, perfect, poor):
    """By how many deviations of a resampling the poor generator scores above the perfect one."""
    found = [[score(features) for features in sets] for sets in (perfect, poor)]
    gap = statistics.mean(found[1]) - statistics.mean(found[0])
    return gap / max(statistics.stdev(values) for values in found)


def resampled(found, count, seeds=8):
    return [found[torch.randint(len(found), (count,), generator=stream(seed))] for seed in range(seeds)]


def test_the_default_score_of_digits_sees_a_tenth_less_variety(reference, features):
    objective = ObjectiveConfig()
    fakes = resampled(features[0], objective.samples.report)
    centre = features[0].mean(0)
    poor = [centre + 0.9 * (fake - centre) for fake in fakes]
    assert (objective.metric, objective.samples.report, reference.label) == ("fid", 1000, "classifier")
    assert worse(lambda found: reference.score(objective.metric, found), fakes, poor) > 3


def test_the_default_score_of_digits_sees_that_a_class_is_never_drawn(reference, features):
    objective = ObjectiveConfig()
    fakes = resampled(features[0], objective.samples.report)
    poor = resampled(features[0][features[1] != ABSENT], objective.samples.report)
    assert worse(lambda found: reference.score(objective.metric, found), fakes, poor) > 3


def test_the_default_objective_is_not_refused(digits, reference):
    check_reference(digits, ObjectiveConfig(), reference)


WIDE, FEW = 512, 300
SPECTRA = {"flat": 0.0, "heavy": 0.5}  # features of pretrained networks lie between


@pytest.fixture(params=SPECTRA)
def deviations(request):
    found = torch.arange(1, WIDE + 1).double() ** -SPECTRA[request.param]
    return found * (WIDE / found.square().sum()).sqrt()


def wide(deviations, count, seed):
    return deviations * torch.randn(count, WIDE, generator=stream(seed), dtype=torch.float64)


def gains(score, deviations, count, size=0.9, seeds=6):
    """How much worse a perfect generator scores once it is shrunk, in each of some draws; below 0 it is rewarded."""
    fakes = [wide(deviations, count, seed) for seed in range(seeds)]
    return [score(size * fake) - score(fake) for fake in fakes]


def rewarded(changes):
    return statistics.mean(changes) < -4 * statistics.stdev(changes) / len(changes) ** 0.5


def endless(deviations):
    """The real distribution itself."""
    return Gaussian(torch.zeros(WIDE).double(), torch.diag(deviations))


def scores(deviations):
    real, reals = endless(deviations), wide(deviations, 600, 100)
    own = self_similarity(reals)
    return {
        "fid": lambda fake: frechet_distance(real, fake),
        "fid_inf": lambda fake: frechet_distance_at_infinity(real, fake),
        "kid": lambda fake: kernel_distance(reals, fake, own),
    }


def test_fid_from_fewer_samples_than_features_rewards_too_little_variety(deviations):
    assert rewarded(gains(scores(deviations)["fid"], deviations, FEW))


def test_kid_from_fewer_samples_than_features_does_not(deviations):
    changes = gains(scores(deviations)["kid"], deviations, FEW, seeds=8)
    assert statistics.mean(changes) > 2 * statistics.stdev(changes) / 8**0.5


def test_fid_inf_from_fewer_samples_than_features_does_not_where_few_directions_matter():
    heavy = torch.arange(1, WIDE + 1).double() ** -SPECTRA["heavy"]
    heavy *= (WIDE / heavy.square().sum()).sqrt()
    changes = gains(scores(heavy)["fid_inf"], heavy, FEW)
    assert statistics.mean(changes) > 2 * statistics.stdev(changes) / 6**0.5


def asking(metric, report):
    return ObjectiveConfig(metric=metric, samples=SampleCounts(report=report))


@pytest.fixture(scope="module")
def wide_reference(reference):
    flat = torch.ones(WIDE).double()
    return dataclasses.replace(reference, gaussian=Gaussian(torch.zeros(WIDE).double(), torch.diag(flat)))


def test_an_objective_that_would_reward_it_is_refused_with_the_remedy(digits, wide_reference):
    with pytest.raises(DataError) as caught:
        check_reference(digits, asking("fid", FEW), wide_reference)
    error = str(caught.value)
    assert error.startswith("objective.samples.report: ")
    assert str(FEW) in error
    assert str(WIDE) in error
    assert "metric: kid" in error
    remedy = int(re.search(r"ask for (\d+) samples or more", error)[1])
    check_reference(digits, asking("fid", remedy), wide_reference)
    check_reference(digits, asking("kid", FEW), wide_reference)
    with pytest.raises(DataError):
        check_reference(digits, asking("fid", remedy - 1), wide_reference)


def test_pixels_of_sixteen_are_too_wide_for_few_samples_and_not_for_many(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path))
    larger = open_data(DataConfig(dataset="digits", size=16))
    found = load_reference(prepare_reference(larger, Component(name="pixels")))
    assert found.gaussian.mean.numel() == 256
    objective = dataclasses.replace(asking("fid", 300), features=Component(name="pixels"))
    with pytest.raises(DataError, match="too little variety"):
        check_reference(larger, objective, found)
    check_reference(larger, dataclasses.replace(objective, samples=SampleCounts(report=1100)), found)


@pytest.mark.parametrize(
    ("metric", "report"),
    [
        ("fid", LEAST_PER_FEATURE["fid"] * WIDE),
        ("fid_inf", FEW),
        ("fid_inf", LEAST_PER_FEATURE["fid_inf"] * WIDE),
        ("kid", FEW),
    ],
)
def test_no_objective_that_is_let_pass_rewards_too_little_variety(digits, wide_reference, metric, report):
    flat = torch.ones(WIDE).double()
    with suppress(DataError):
        check_reference(digits, asking(metric, report), wide_reference)
        assert not rewarded(gains(scores(flat)[metric], flat, report, seeds=4))
