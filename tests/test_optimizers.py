import copy

import pytest
import torch
from torch import nn, optim

from gantune import plugins
from gantune.optimizers import adam, adamw, rmsprop, sgd

# name, options, the same optimizer of torch that steps weight by weight
TWINS = [
    ("adam", {}, optim.Adam, {"betas": (0.5, 0.999)}),
    ("adam", {"beta1": 0.0, "beta2": 0.9}, optim.Adam, {"betas": (0.0, 0.9)}),
    ("adamw", {}, optim.AdamW, {"betas": (0.5, 0.999), "weight_decay": 1e-4}),
    (
        "adamw",
        {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.5},
        optim.AdamW,
        {"betas": (0.9, 0.99), "weight_decay": 0.5},
    ),
    ("rmsprop", {}, optim.RMSprop, {"alpha": 0.99}),
    ("rmsprop", {"alpha": 0.9, "momentum": 0.5}, optim.RMSprop, {"alpha": 0.9, "momentum": 0.5}),
    ("sgd", {}, optim.SGD, {}),
    ("sgd", {"momentum": 0.9}, optim.SGD, {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}, optim.SGD, {"momentum": 0.9, "nesterov": True}),
]


def weight(values, slopes=None):
    found = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    found.grad = None if slopes is None else torch.tensor(slopes, dtype=torch.float64)
    return found


def descended(build, lr=0.1, steps=5):
    """Weights of several shapes after steps down a bowl whose sides are of different steepness."""
    draws = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=draws)) for shape in ((3, 4), (5,), ())]
    optimizer = build(weights, lr)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((index + 1) * (each - 0.5).square().sum() for index, each in enumerate(weights)).backward()
        optimizer.step()
    return [each.detach() for each in weights]


@pytest.mark.parametrize(("name", "options", "twin", "same"), TWINS)
def test_steps_equal_those_of_the_plain_optimizer(name, options, twin, same):
    found = descended(plugins.resolve("optimizer", name)(**options))
    expected = descended(lambda weights, lr: twin(weights, lr=lr, foreach=False, **same))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", plugins.BUILTIN["optimizer"])
def test_every_option_changes_the_steps(name):
    factory = plugins.resolve("optimizer", name)
    start = {"momentum": 0.5} if name == "sgd" else {}
    others = {"nesterov": True, "weight_decay": 0.5, "beta1": 0.7, "beta2": 0.7, "alpha": 0.7, "momentum": 0.7}
    for option in plugins.options(factory):
        changed = descended(factory(**{**start, option: others[option]}))
        assert not torch.allclose(changed[0], descended(factory(**start))[0], atol=1e-6), option


@pytest.mark.parametrize("name", plugins.BUILTIN["optimizer"])
def test_options_are_in_force_in_the_groups(name):
    factory = plugins.resolve("optimizer", name)
    chosen = {"beta1": 0.25, "beta2": 0.75, "alpha": 0.5, "momentum": 0.125, "nesterov": True, "weight_decay": 0.0625}
    chosen = {option: value for option, value in chosen.items() if option in plugins.options(factory)}
    (group,) = factory(**chosen)([weight([1.0])], 0.03).param_groups
    named = {**group, **dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))}
    assert group["lr"] == 0.03
    assert {option: named[option] for option in chosen} == chosen


def test_adam_defaults_to_the_first_moments_decay_that_gans_need():
    (group,) = adam()([weight([1.0])], 1e-4).param_groups
    assert group["betas"] == (0.5, 0.999)
    assert group["weight_decay"] == 0


def test_first_step_of_adam_is_the_rate_against_the_sign_of_the_slope():
    moved = weight([1.0, -2.0], [100.0, -1e-3])
    adam()([moved], 0.1).step()
    assert moved.tolist() == pytest.approx([0.9, -1.9], abs=1e-5)


def test_decay_of_adamw_shrinks_the_weight_and_stays_out_of_the_moments():
    decayed, plain = weight([4.0, -3.0], [2.0, 0.5]), weight([4.0, -3.0], [2.0, 0.5])
    adamw(weight_decay=0.25)([decayed], 0.1).step()
    adam()([plain], 0.1).step()
    torch.testing.assert_close(decayed.detach(), plain.detach() - 0.1 * 0.25 * torch.tensor([4.0, -3.0]).double())


def test_decay_of_adamw_acts_where_there_is_no_slope():
    decayed = weight([4.0], [0.0])
    optimizer = adamw(weight_decay=0.25)([decayed], 0.1)
    for _ in range(3):
        optimizer.step()
    assert decayed.item() == pytest.approx(4.0 * (1 - 0.1 * 0.25) ** 3)


def test_rmsprop_divides_the_slope_by_the_root_of_its_average_square():
    moved = weight([0.0], [2.0])
    optimizer = rmsprop(alpha=0.75)([moved], 0.1)
    expected = average = 0.0
    for _ in range(3):
        optimizer.step()
        average = 0.75 * average + 0.25 * 4.0
        expected -= 0.1 * 2.0 / (average**0.5 + 1e-8)
    assert moved.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_of_descent_is_heavy_or_looks_ahead(nesterov):
    moved = weight([0.0])
    optimizer = sgd(momentum=0.5, nesterov=nesterov)([moved], 0.1)
    expected = speed = 0.0
    for slope in (1.0, -3.0, 2.0):
        moved.grad = torch.tensor([slope], dtype=torch.float64)
        optimizer.step()
        speed = 0.5 * speed + slope
        expected -= 0.1 * (slope + 0.5 * speed if nesterov else speed)
    assert moved.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", plugins.BUILTIN["optimizer"])
def test_one_choice_builds_optimizers_that_share_nothing(name):
    build = plugins.resolve("optimizer", name)()
    first, second = weight([1.0], [1.0]), weight([1.0], [1.0])
    optimizers = build([first], 0.1), build([second], 0.2)
    before = copy.deepcopy(optimizers[1].state_dict())
    optimizers[0].step()
    assert first.item() != 1.0
    assert second.item() == 1.0
    assert optimizers[1].state_dict() == before
