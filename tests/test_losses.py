import math

import pytest
import torch

from gantune import losses

LOGITS = (-50.0, -20.0, -1.0, 0.0, 1.0, 20.0, 50.0)


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


D_VALUES = {
    losses.logistic_d: lambda r, f: softplus(-r) + softplus(f),
    losses.least_squares_d: lambda r, f: ((r - 1) ** 2 + f**2) / 2,
    losses.hinge_d: lambda r, f: max(0.0, 1 - r) + max(0.0, 1 + f),
    losses.wasserstein_d: lambda r, f: f - r,
}
D_SLOPES = {
    losses.logistic_d: lambda r, f: (-sigmoid(-r), sigmoid(f)),
    losses.least_squares_d: lambda r, f: (r - 1, f),
    losses.hinge_d: lambda r, f: (-1.0 if r < 1 else 0.0, 1.0 if f > -1 else 0.0),
    losses.wasserstein_d: lambda r, f: (-1.0, 1.0),
}
G_VALUES = {
    losses.minimax_g: lambda f: -softplus(f),
    losses.non_saturating_g: lambda f: softplus(-f),
    losses.least_squares_g: lambda f: (f - 1) ** 2 / 2,
    losses.negated_g: lambda f: -f,
}
G_SLOPES = {
    losses.minimax_g: lambda f: -sigmoid(f),
    losses.non_saturating_g: lambda f: -sigmoid(-f),
    losses.least_squares_g: lambda f: f - 1,
    losses.negated_g: lambda f: -1.0,
}

each_d = pytest.mark.parametrize("loss", D_VALUES, ids=lambda loss: loss.__name__)
each_g = pytest.mark.parametrize("loss", G_VALUES, ids=lambda loss: loss.__name__)
each_precision = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=["float32", "float64"]
)


def pairs(dtype, logits=LOGITS):
    real, fake = torch.meshgrid(*[torch.tensor(logits, dtype=dtype)] * 2, indexing="ij")
    return real.flatten().requires_grad_(), fake.flatten().requires_grad_()


def slope_of_g(loss, logit):
    fake = torch.tensor([logit], requires_grad=True)
    (slope,) = torch.autograd.grad(loss(fake).sum(), fake)
    return slope.item()


@each_precision
@each_d
def test_discriminator_loss_equals_its_formula_at_every_pair_of_logits(loss, dtype, tolerance):
    real, fake = pairs(dtype)
    expected = [D_VALUES[loss](r, f) for r in LOGITS for f in LOGITS]
    assert loss(real, fake).tolist() == pytest.approx(expected, rel=tolerance, abs=0)


@each_precision
@each_d
def test_discriminator_gradient_equals_its_formula_at_every_pair_of_logits(loss, dtype, tolerance):
    real, fake = pairs(dtype)
    slopes = torch.autograd.grad(loss(real, fake).sum(), (real, fake))
    expected = [D_SLOPES[loss](r, f) for r in LOGITS for f in LOGITS]
    assert slopes[0].tolist() == pytest.approx([slope for slope, _ in expected], rel=tolerance, abs=0)
    assert slopes[1].tolist() == pytest.approx([slope for _, slope in expected], rel=tolerance, abs=0)


@each_precision
@each_g
def test_generator_loss_equals_its_formula_at_every_logit(loss, dtype, tolerance):
    fake = torch.tensor(LOGITS, dtype=dtype)
    assert loss(fake).tolist() == pytest.approx([G_VALUES[loss](f) for f in LOGITS], rel=tolerance, abs=0)


@each_precision
@each_g
def test_generator_gradient_equals_its_formula_at_every_logit(loss, dtype, tolerance):
    fake = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(fake).sum(), fake)
    assert slope.tolist() == pytest.approx([G_SLOPES[loss](f) for f in LOGITS], rel=tolerance, abs=0)


def test_minimax_generator_gradient_vanishes_where_the_discriminator_wins_and_is_minus_one_where_it_loses():
    assert slope_of_g(losses.minimax_g, -50.0) == pytest.approx(-math.exp(-50), rel=1e-6)
    assert slope_of_g(losses.minimax_g, 50.0) == pytest.approx(-1.0)


def test_non_saturating_generator_gradient_is_minus_one_where_the_discriminator_wins_and_vanishes_where_it_loses():
    assert slope_of_g(losses.non_saturating_g, -50.0) == pytest.approx(-1.0)
    assert slope_of_g(losses.non_saturating_g, 50.0) == pytest.approx(-math.exp(-50), rel=1e-6)


def test_hinge_and_wasserstein_generator_gradient_is_minus_one_everywhere():
    assert [slope_of_g(losses.negated_g, logit) for logit in LOGITS] == [-1.0] * len(LOGITS)


def test_least_squares_generator_gradient_grows_with_the_distance_to_one():
    assert slope_of_g(losses.least_squares_g, -50.0) == -51.0
    assert slope_of_g(losses.least_squares_g, 50.0) == 49.0


def test_hinge_discriminator_gets_no_gradient_beyond_its_margins():
    real, fake = torch.tensor([50.0], requires_grad=True), torch.tensor([-50.0], requires_grad=True)
    losses.hinge_d(real, fake).sum().backward()
    assert real.grad.item() == 0.0
    assert fake.grad.item() == 0.0


def test_wasserstein_loss_is_unchanged_by_a_shift_of_both_logits():
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
    assert torch.equal(losses.wasserstein_d(real + 8, fake + 8), losses.wasserstein_d(real, fake))


@pytest.mark.parametrize("batch", [1, 7])
def test_losses_are_per_sample_and_each_depends_on_its_own_sample_alone(batch):
    draws = torch.Generator().manual_seed(0)
    real, fake = torch.randn(batch, generator=draws), torch.randn(batch, generator=draws)
    for loss in D_VALUES:
        singly = [loss(real[index : index + 1], fake[index : index + 1]) for index in range(batch)]
        assert loss(real, fake).shape == (batch,)
        torch.testing.assert_close(loss(real, fake), torch.cat(singly))
    for loss in G_VALUES:
        singly = [loss(fake[index : index + 1]) for index in range(batch)]
        assert loss(fake).shape == (batch,)
        torch.testing.assert_close(loss(fake), torch.cat(singly))


@each_d
def test_discriminator_loss_and_gradient_are_finite_at_ten_thousand(loss):
    real, fake = pairs(torch.float32, (-1e4, 1e4))
    value = loss(real, fake)
    slopes = torch.autograd.grad(value.sum(), (real, fake))
    assert all(torch.isfinite(found).all() for found in (value, *slopes))


@each_g
def test_generator_loss_and_gradient_are_finite_at_ten_thousand(loss):
    fake = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = loss(fake)
    (slope,) = torch.autograd.grad(value.sum(), fake)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    ("component", "d_loss", "g_loss", "gp_weight", "d_steps"),
    [
        (losses.minimax, losses.logistic_d, losses.minimax_g, 0.0, 1),
        (losses.non_saturating, losses.logistic_d, losses.non_saturating_g, 0.0, 1),
        (losses.least_squares, losses.least_squares_d, losses.least_squares_g, 0.0, 1),
        (losses.hinge, losses.hinge_d, losses.negated_g, 0.0, 1),
        (losses.wasserstein, losses.wasserstein_d, losses.negated_g, 0.0, 5),
        (losses.wgan_gp, losses.wasserstein_d, losses.negated_g, 10.0, 5),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_component_is_the_game_of_its_name_with_its_published_defaults(
    component, d_loss, g_loss, gp_weight, d_steps
):
    game = component()
    assert (game.d_loss, game.g_loss) == (d_loss, g_loss)
    assert (game.gp_weight, game.r1, game.clip, game.d_steps) == (gp_weight, 0.0, 0.0, d_steps)


@pytest.mark.parametrize(
    "component",
    [losses.minimax, losses.non_saturating, losses.least_squares, losses.hinge, losses.wasserstein],
    ids=lambda component: component.__name__,
)
def test_penalty_weights_and_discriminator_steps_reach_the_game(component):
    game = component(r1=0.25, gp_weight=3.0, d_steps=2)
    assert (game.r1, game.gp_weight, game.clip, game.d_steps) == (0.25, 3.0, 0.0, 2)


def test_the_clip_of_wasserstein_and_the_weight_of_wgan_gp_reach_the_game():
    assert losses.wasserstein(clip=0.01).clip == 0.01
    assert losses.wasserstein(clip=0.01).gp_weight == 0.0
    game = losses.wgan_gp(gp_weight=2.0, d_steps=3)
    assert (game.gp_weight, game.r1, game.clip, game.d_steps) == (2.0, 0.0, 0.0, 3)
