import pytest
import torch
from torch import nn

from gantune import plugins
from gantune.rates import Rates

CHOSEN = {
    "adam": {"beta1": 0.5, "beta2": 0.9},
    "adamw": {"beta1": 0.5, "beta2": 0.9, "weight_decay": 0.25},
    "rmsprop": {"alpha": 0.9, "momentum": 0.5},
    "sgd": {"momentum": 0.5, "nesterov": True},
}
SECOND = ("beta2", "alpha")
DECAYS = ("beta1", "beta2", "alpha", "momentum")
LR = 0.08

each_optimizer = pytest.mark.parametrize("name", CHOSEN)


def built(name, **changes):
    weight = nn.Parameter(torch.ones(3))
    optimizer = plugins.resolve("optimizer", name)(**{**CHOSEN[name], **changes})([weight], LR)
    return optimizer, weight


def numbers_of(optimizer):
    """The options in force, read from the optimizer itself."""
    (group,) = optimizer.param_groups
    return {**group, **dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))}


def held(optimizer, expected):
    found = numbers_of(optimizer)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_every_optimizer_is_held_to_its_rates():
    assert set(CHOSEN) == set(plugins.BUILTIN["optimizer"])
    assert all(
        set(chosen) == set(plugins.options(plugins.resolve("optimizer", name))) for name, chosen in CHOSEN.items()
    )


@each_optimizer
def test_factors_of_one_leave_every_number_exactly_as_chosen(name):
    optimizer, _ = built(name)
    Rates(optimizer).apply(1.0, 1.0)
    found = numbers_of(optimizer)
    assert {option: found[option] for option in CHOSEN[name]} == CHOSEN[name]
    assert found["lr"] == LR


@each_optimizer
@pytest.mark.parametrize("lazy", [4, 16])
def test_lazy_penalties_scale_the_rate_and_take_every_decay_to_the_same_power(name, lazy):
    optimizer, _ = built(name)
    Rates(optimizer, lazy=lazy).apply(1.0, 1.0)
    share = lazy / (lazy + 1)
    expected = {option: value**share if option in DECAYS else value for option, value in CHOSEN[name].items()}
    held(optimizer, {"lr": LR * share, **expected})


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_decay_of_zero_stays_zero_under_lazy_penalties(name):
    option = {"adam": "beta1", "rmsprop": "momentum", "sgd": "momentum"}[name]
    optimizer, _ = built(name, **{option: 0.0}, **({"nesterov": False} if name == "sgd" else {}))
    Rates(optimizer, lazy=16).apply(1.0, 1.0)
    held(optimizer, {option: 0.0})


@each_optimizer
def test_factor_scales_the_rate_and_nothing_else(name):
    optimizer, _ = built(name)
    Rates(optimizer).apply(0.25, 1.0)
    held(optimizer, {"lr": 0.02, **CHOSEN[name]})


@each_optimizer
def test_forgetting_factor_scales_what_the_second_moment_forgets_and_nothing_else(name):
    optimizer, _ = built(name)
    Rates(optimizer).apply(1.0, 0.1)
    expected = {option: 0.99 if option in SECOND else value for option, value in CHOSEN[name].items()}
    held(optimizer, {"lr": LR, **expected})


def test_forgetting_is_scaled_after_the_correction_for_lazy_penalties():
    optimizer, _ = built("adam")
    Rates(optimizer, lazy=4).apply(0.5, 0.1)
    held(optimizer, {"lr": LR * 0.8 * 0.5, "beta1": 0.5**0.8, "beta2": 1 - 0.1 * (1 - 0.9**0.8)})


@each_optimizer
def test_rates_are_scaled_from_what_was_built_and_never_pile_up(name):
    optimizer, _ = built(name)
    rates = Rates(optimizer, lazy=4)
    for _ in range(3):
        rates.apply(0.5, 0.5)
    once = numbers_of(optimizer)["lr"]
    rates.apply(1.0, 1.0)
    assert once == pytest.approx(LR * 0.8 * 0.5)
    held(optimizer, {"lr": LR * 0.8})


@each_optimizer
def test_what_is_in_force_is_read_from_the_optimizer_under_the_names_of_its_options(name):
    optimizer, _ = built(name)
    rates = Rates(optimizer)
    rates.apply(0.5, 0.1)
    (found,) = rates.in_force()
    assert {"lr", *CHOSEN[name]} <= set(found)
    held(optimizer, found)
    optimizer.param_groups[0]["lr"] = 7.0
    assert rates.in_force()[0]["lr"] == 7.0


@each_optimizer
@pytest.mark.parametrize(("lazy", "lr_factor", "forgetting_factor"), [(1, 1.0, 1.0), (16, 0.3, 0.1), (4, 0.0, 2.0)])
def test_what_is_due_is_in_force_after_it_was_applied(name, lazy, lr_factor, forgetting_factor):
    optimizer, _ = built(name)
    rates = Rates(optimizer, lazy=lazy)
    due = rates.due({"lr": LR, **CHOSEN[name]}, lr_factor, forgetting_factor)
    assert set(due) == {"lr", *CHOSEN[name]}
    if (lazy, lr_factor, forgetting_factor) != (1, 1.0, 1.0):
        assert due["lr"] != pytest.approx(rates.in_force()[0]["lr"])
    rates.apply(lr_factor, forgetting_factor)
    held(optimizer, due)


@each_optimizer
def test_rates_of_another_trial_that_a_state_brings_along_are_replaced(name):
    optimizer, _ = built(name)
    rates = Rates(optimizer)
    stranger = plugins.resolve("optimizer", name)()([nn.Parameter(torch.ones(3))], 5.0)
    optimizer.load_state_dict(stranger.state_dict())
    assert numbers_of(optimizer)["lr"] == 5.0
    rates.apply(1.0, 1.0)
    held(optimizer, {"lr": LR, **CHOSEN[name]})


def test_every_group_keeps_its_own_rate():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": 0.4}]
    optimizer = torch.optim.Adam(groups, betas=(0.5, 0.9))
    rates = Rates(optimizer, lazy=4)
    rates.apply(0.5, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.04, 0.16])
    assert [group["lr"] for group in rates.in_force()] == pytest.approx([0.04, 0.16])


@each_optimizer
def test_next_step_is_taken_by_the_rates_in_force(name):
    optimizer, weight = built(name)
    rates = Rates(optimizer)
    rates.apply(0.0, 1.0)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3))
    rates.apply(1.0, 1.0)
    optimizer.step()
    assert (weight < 1).all()


@each_optimizer
@pytest.mark.parametrize("forgetting_factor", [0.0, 1e-9, 10.0, 100.0])
def test_no_forgetting_factor_takes_the_weights_beyond_what_is_finite(name, forgetting_factor):
    optimizer, weight = built(name)
    rates = Rates(optimizer)
    for slopes in ([1.0, -2.0, 0.0], [0.5, 1.0, 0.0]):
        rates.apply(1.0, forgetting_factor)
        weight.grad = torch.tensor(slopes)
        optimizer.step()
    assert weight.isfinite().all()
    assert all(0 <= rates.in_force()[0].get(option, 0) < 1 for option in SECOND)
