import dataclasses
import json
import math
import random

import pytest
import torch

from gantune.collapse import CollapseMonitor, Verdict
from gantune.config import CollapseConfig, Component, DataConfig, ObjectiveConfig, SampleCounts, TrialConfig
from gantune.data.data_set import open_data, quantise
from gantune.metrics.neighbours import spread
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.models.dcgan import dcgan
from gantune.models.mlp import mlp
from gantune.models.networks import ImageShape
from gantune.trial import train_trial

BUDGET = 1000
HEALTHY = {"diversity": 0.9, "pixel_diversity": 0.9, "recall": 0.5, "coverage": 0.5}
LOW = {"diversity": 0.3, "pixel_diversity": 0.6, "recall": 0.1, "coverage": 0.1}
FAIR = {"d_accuracy": 0.7, "g_gradient": 0.5, "loss_d": 1.0, "loss_g": 0.7}
WON = {"d_accuracy": 1.0, "g_gradient": 1e-6, "loss_d": 0.0, "loss_g": 1e-6}


def monitor(**settings):
    return CollapseMonitor(CollapseConfig(**{"patience": 2, **settings}), BUDGET)


def observe(judge, share, score, metrics=LOW, signals=FAIR, finite=True):
    return judge.observe(round(share * BUDGET), score, metrics, signals, finite)


def play(judge, reports):
    """The states after reports of (share of the budget, score, metrics)."""
    return [observe(judge, share, score, metrics).state for share, score, metrics in reports]


# What ends a run at once


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_constant_output_is_judged_at_once(share):
    constant = {**HEALTHY, "diversity": 0.0, "pixel_diversity": 0.0004}
    verdict = observe(monitor(), share, 10.0, constant)
    assert verdict.state == "mode_collapse"
    assert verdict.dead
    assert "one constant picture" in verdict.cause
    assert f"{share:.0%}" in verdict.cause
    assert verdict.evidence["pixel_diversity"] == 0.0004


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_weights_that_are_not_finite_are_judged_at_once(share):
    signals = {**FAIR, "loss_d": math.nan, "g_gradient": math.inf}
    verdict = observe(monitor(), share, math.nan, {}, signals, finite=False)
    assert verdict.state == "diverged"
    assert "not finite" in verdict.cause
    assert "weights, losses or logits" in verdict.cause


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_pictures_that_are_not_finite_are_judged_at_once(score):
    verdict = observe(monitor(), 0.01, score, {"fid_classifier": math.nan})
    assert verdict.state == "diverged"
    assert "generated pictures" in verdict.cause


# Low diversity without improvement


def test_low_diversity_without_improvement_is_judged_after_warmup_and_patience():
    reports = [(0.1, 50, LOW), (0.2, 50, LOW), (0.3, 50, LOW)]
    assert play(monitor(), reports) == ["healthy", "healthy", "generator_stalled"]


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
def test_patience_counts_reports_in_a_row(patience):
    states = play(monitor(patience=patience, warmup=0), [(0.1 * i, 50 + 0.1 * i, LOW) for i in range(1, 8)])
    assert states.index("generator_stalled") == patience  # the first report is an improvement on nothing


def test_nothing_is_judged_before_the_warmup_and_its_reports_do_not_count():
    judge = monitor(warmup=0.5)
    early = [(share / 100, 50, LOW) for share in range(1, 50)]
    assert set(play(judge, early)) == {"healthy"}
    assert play(judge, [(0.5, 50, LOW), (0.6, 50, LOW)]) == ["healthy", "generator_stalled"]


@pytest.mark.parametrize("patience", [2, 4])
def test_a_run_that_improves_within_its_patience_is_not_judged_however_low_its_diversity(patience):
    a_report = 0.79 ** (1 / patience)  # small steps add up to one that counts
    reports = [(0.05 * i, 100 * a_report**i, LOW) for i in range(1, 21)]
    assert set(play(monitor(patience=patience), reports)) == {"healthy"}
    assert play(monitor(patience=patience - 1), reports)[-1] != "healthy"


def test_a_run_whose_diversity_grows_is_not_judged_though_its_score_stands_still():
    widening = [(0.1 * i, 50, {**LOW, "diversity": 0.05 * 1.3**i}) for i in range(1, 9)]
    assert set(play(monitor(), [(share, score + share, low) for share, score, low in widening])) == {"healthy"}


def test_less_than_the_least_improvement_is_none():
    reports = [(0.4 + 0.1 * i, 100 * 0.98**i, LOW) for i in range(1, 4)]
    assert play(monitor(), reports)[-1] != "healthy"
    assert play(monitor(min_improvement=0.01), reports)[-1] == "healthy"


def test_a_run_of_enough_diversity_is_not_judged_however_bad_its_scores():
    reports = [(0.05 * i, 100.0 + i, {**LOW, "diversity": 0.5, "pixel_diversity": 0.5}) for i in range(1, 21)]
    assert set(play(monitor(), reports)) == {"healthy"}


def test_a_slow_starter_has_half_its_budget_to_begin():
    """Measured: Wasserstein critics on digits show scores of 727, 821, 754, 773 before they fall to 226."""
    slow = [(i / 12, score, LOW) for i, score in enumerate([727, 821, 754, 773, 514, 301, 271, 226], 1)]
    default = CollapseConfig()
    assert set(play(CollapseMonitor(default, BUDGET), slow)) == {"healthy"}
    never = [(i / 12, 727 + i, LOW) for i in range(1, 13)]
    assert play(CollapseMonitor(default, BUDGET), never).index("generator_stalled") == 5


def test_few_pictures_that_lie_far_apart_are_a_collapse_though_diverse():
    apart = {"diversity": 0.68, "pixel_diversity": 0.69, "recall": 0.0, "coverage": 0.02}
    assert play(monitor(), [(0.1, 100, apart), (0.2, 60, apart), (0.3, 61, apart), (0.4, 62, apart)])[-1] != "healthy"


def test_a_generator_without_a_gradient_of_its_own_is_not_the_discriminators_victory():
    signals = {**WON, "g_gradient": 0.0, "logit_fake": -1.5}
    judge = monitor()
    for share in (0.2, 0.3):
        observe(judge, share, 50.0, LOW, signals)
    assert observe(judge, 0.4, 50.0, LOW, signals).state == "generator_stalled"
    judge = monitor()
    for share in (0.2, 0.3):
        observe(judge, share, 50.0, LOW, {**signals, "logit_fake": -50.0})
    assert observe(judge, 0.4, 50.0, LOW, {**signals, "logit_fake": -50.0}).state == "discriminator_won"


@pytest.mark.parametrize("which", ["diversity", "pixel_diversity"])
def test_either_diversity_may_be_the_low_one(which):
    reports = [(0.2 * i, 50, {**HEALTHY, which: 0.4}) for i in range(1, 4)]
    assert play(monitor(), reports)[-1] != "healthy"


@pytest.mark.parametrize("relief", [(39, LOW), (50.2, HEALTHY)], ids=["improvement", "diversity"])
def test_a_strike_is_forgotten_when_the_run_recovers(relief):
    judge = monitor()
    reports = [(0.2, 50, LOW), (0.3, 50.1, LOW), (0.4, *relief), (0.5, 50.3, LOW)]
    assert set(play(judge, reports)) == {"healthy"}
    assert observe(judge, 0.6, 50).dead


@pytest.mark.parametrize("seed", range(30))
def test_healthy_random_walks_are_never_judged(seed):
    rng = random.Random(seed)
    judge = monitor()
    score = 100.0
    for step in range(1, 41):
        score *= rng.uniform(0.85, 1.12)
        metrics = {name: rng.uniform(0.5, 1.1) for name in HEALTHY}
        signals = {"d_accuracy": rng.uniform(0.5, 1.0), "g_gradient": 10 ** rng.uniform(-6, 1)}
        assert observe(judge, step / 40, score, metrics, signals) == Verdict()


# The cause


def test_a_generator_that_never_improved_is_called_stalled():
    judge = monitor()
    play(judge, [(0.4, 50, LOW), (0.5, 51, LOW)])
    verdict = observe(judge, 0.6, 49.5)
    assert verdict.state == "generator_stalled"
    assert "hardly improved on its first report" in verdict.cause


def test_a_generator_that_improved_and_then_narrowed_is_called_collapsed():
    judge = monitor()
    play(judge, [(0.2, 50, HEALTHY), (0.3, 20, HEALTHY), (0.4, 30, LOW)])
    verdict = observe(judge, 0.5, 40)
    assert verdict.state == "mode_collapse"
    assert "diversity 0.30" in verdict.cause
    assert "recall 0.10" in verdict.cause
    assert "2 reports" in verdict.cause


def test_a_discriminator_that_is_never_wrong_over_a_dead_gradient_is_named():
    judge = monitor()
    play(judge, [(0.2, 50, LOW), (0.3, 20, LOW), (0.4, 30, LOW)])
    verdict = observe(judge, 0.5, 40, signals=WON)
    assert verdict.state == "discriminator_won"
    assert "discriminator is never wrong" in verdict.cause
    assert verdict.evidence["d_accuracy"] == 1.0
    assert verdict.evidence["g_gradient"] == 1e-6


@pytest.mark.parametrize("signals", [{**WON, "g_gradient": 0.1}, {**WON, "d_accuracy": 0.9}])
def test_one_sign_alone_does_not_blame_the_discriminator(signals):
    judge = monitor()
    play(judge, [(0.2, 50, LOW), (0.3, 50, LOW)])
    assert observe(judge, 0.4, 50, signals=signals).state == "generator_stalled"


def test_the_discriminators_signals_alone_decide_nothing():
    judge = monitor()
    for step in range(1, 20):
        assert not observe(judge, step / 20, 50.0 + step / 100, HEALTHY, WON).dead


def test_a_generator_whose_samples_no_longer_change_is_stalled_however_varied_they_are():
    judge = monitor()
    states = play(judge, [(0.1 * i, 50.0, HEALTHY) for i in range(1, 6)])
    assert states.index("generator_stalled") == 2  # the second after the warm-up
    assert observe(judge, 0.7, 50.0, HEALTHY, WON).state == "discriminator_won"


def test_a_score_that_swings_while_diversity_is_low_is_an_oscillation():
    judge = monitor()
    play(judge, [(0.1, 60, HEALTHY), (0.2, 20, HEALTHY), (0.3, 45, LOW), (0.35, 21, HEALTHY), (0.4, 44, LOW)])
    verdict = observe(judge, 0.5, 22)
    assert verdict.state == "oscillation"
    assert "swings between 20 and 60" in verdict.cause


def test_a_score_far_above_its_own_best_is_a_divergence():
    judge = monitor()
    reports = [(0.2, 50, HEALTHY), (0.3, 10, HEALTHY), (0.4, 39, HEALTHY), (0.5, 41, HEALTHY), (0.6, 42, HEALTHY)]
    assert play(judge, reports) == ["healthy"] * 4 + ["diverged"]


def test_a_score_far_above_its_best_for_once_is_forgiven():
    judge = monitor()
    reports = [(0.3, 10, HEALTHY), (0.4, 80, HEALTHY), (0.5, 12, HEALTHY), (0.6, 80, HEALTHY)]
    assert set(play(judge, reports)) == {"healthy"}


def test_samples_that_lie_on_training_examples_are_memorised_and_only_where_they_are_varied():
    copied = {"memorisation": 0.05}
    reports = [(0.3, 10, {**HEALTHY, **copied}), (0.4, 9, {**HEALTHY, **copied})]
    assert play(monitor(), reports) == ["healthy", "memorised"]
    narrow = [(0.3, 10, {**LOW, **copied}), (0.4, 9, {**LOW, **copied})]
    assert play(monitor(), narrow) == ["healthy", "healthy"]


def test_a_score_below_zero_is_judged_like_any_other():
    """An estimate without bias may lie below 0 for a good generator."""
    judge = monitor()
    assert set(play(judge, [(0.1 * i, -0.1 - i / 100, HEALTHY) for i in range(1, 10)])) == {"healthy"}
    falling = [(0.1 * i, 1.0 - 0.4 * i, LOW) for i in range(1, 10)]
    assert set(play(monitor(), falling)) == {"healthy"}


# The evidence


def test_evidence_is_finite_and_holds_what_decided():
    judge = monitor()
    play(judge, [(0.2, 50, HEALTHY), (0.3, 20, HEALTHY), (0.4, 30, LOW)])
    verdict = observe(judge, 0.5, 40, {**LOW, "odd": math.nan}, {**FAIR, "loss_g": math.inf})
    expected = {"share_of_budget": 0.5, "score": 40, "first_score": 50, "best_score": 20, "reports_in_a_row": 2}
    assert verdict.evidence.items() >= {**expected, **LOW}.items()
    assert all(math.isfinite(value) for value in verdict.evidence.values())
    assert not {"odd", "loss_g"} & verdict.evidence.keys()
    json.dumps(verdict.evidence, allow_nan=False)


def test_evidence_of_a_divergence_keeps_what_is_finite():
    verdict = observe(monitor(), 0.3, math.nan, {}, {"loss_d": math.nan, "d_accuracy": 0.6}, finite=False)
    assert verdict.evidence == {"share_of_budget": 0.3, "d_accuracy": 0.6}


# Continuing, and turning it off


@pytest.mark.parametrize("seed", range(10))
def test_a_monitor_continued_from_its_state_judges_as_the_uninterrupted_one(seed):
    rng = random.Random(seed)
    reports = [(step / 12, rng.uniform(30, 60), rng.choice([LOW, HEALTHY, LOW])) for step in range(1, 13)]
    whole = monitor()
    expected = [observe(whole, *report) for report in reports]
    for cut in range(len(reports)):
        before = monitor()
        play(before, reports[:cut])
        after = monitor()
        after.load_state(json.loads(json.dumps(before.state())))
        assert [observe(after, *report) for report in reports[cut:]] == expected[cut:]


def test_a_monitor_turned_off_judges_no_finite_run():
    judge = monitor(enabled=False)
    constant = {**LOW, "diversity": 0.0, "pixel_diversity": 0.0}
    for step in range(1, 20):
        assert observe(judge, step / 20, 50.0, constant, WON) == Verdict()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_trial_that_ends_on_values_that_are_not_finite_says_so_even_unjudged(tmp_path, enabled):
    images = open_data(DataConfig(dataset="digits", size=8))
    reference = load_reference(prepare_reference(images))
    config = TrialConfig(
        data=DataConfig(dataset="digits", size=8),
        objective=ObjectiveConfig(samples=SampleCounts(report=64, final=64), reports=4),
        collapse=CollapseConfig(enabled=enabled),
        samples=400,
        target=None,
        seed=0,
        architecture=Component(name="mlp", options=(("depth", 1), ("hidden", 8), ("z_dim", 4))),
        loss=Component(name="least_squares"),
        optimizer=Component(name="sgd"),
        lr_g=1e30,
        batch_size=16,
    )
    *_, last = train_trial(config, images, reference, tmp_path, torch.device("cpu"))
    assert last.state == "collapsed"
    assert last.samples_seen < config.samples
    assert last.score is None
    assert "not finite" in last.verdict.cause
    assert last.verdict.state == "diverged"


def test_verdicts_are_values():
    assert Verdict() == Verdict()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Verdict().state = "diverged"


@pytest.mark.parametrize("architecture", [dcgan, mlp])
def test_an_untrained_generator_is_not_taken_for_a_constant_one(architecture):
    real = open_data(DataConfig(dataset="digits", size=16)).examples[:500]
    torch.manual_seed(0)
    network = architecture(ImageShape(1, 16), norm_g="none").generator.requires_grad_(False)
    drawn = quantise(network(torch.randn(500, 64)))
    young = {**LOW, "pixel_diversity": spread(drawn) / spread(torch.from_numpy(real.copy()))}
    assert young["pixel_diversity"] < 0.2
    assert observe(monitor(), 0.01, 50.0, young).state == "healthy"
