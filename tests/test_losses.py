import math

import pytest
import torch

from gantune import losses, plugins
from gantune.penalties import GradientPenalty

LOGITS = (-50.0, -20.0, -1.0, 0.0, 1.0, 20.0, 50.0)
GAMES = list(plugins.BUILTIN["loss"])
SHIFT_INVARIANT = ("wasserstein", "wgan_gp", "relativistic")

each_game = pytest.mark.parametrize("name", GAMES)


def game_of(name, **options):
    return plugins.resolve("loss", name)(**options)


def loss_of_g(game, fake, real):
    return game.g_loss(fake, real) if game.paired else game.g_loss(fake)


def slope_of_g(loss, logit, *others):
    fake = torch.tensor([logit], requires_grad=True)
    (slope,) = torch.autograd.grad(loss(fake, *others).sum(), fake)
    return slope.item()


def draws(count):
    stream = torch.Generator().manual_seed(0)
    return torch.randn(count, generator=stream), torch.randn(count, generator=stream)


def test_minimax_generator_gradient_vanishes_where_the_discriminator_wins_and_is_minus_one_where_it_loses():
    assert slope_of_g(losses.minimax().g_loss, -50.0) == pytest.approx(-math.exp(-50), rel=1e-6)
    assert slope_of_g(losses.minimax().g_loss, 50.0) == pytest.approx(-1.0)


def test_non_saturating_generator_gradient_is_minus_one_where_the_discriminator_wins_and_vanishes_where_it_loses():
    assert slope_of_g(losses.non_saturating().g_loss, -50.0) == pytest.approx(-1.0)
    assert slope_of_g(losses.non_saturating().g_loss, 50.0) == pytest.approx(-math.exp(-50), rel=1e-6)


@pytest.mark.parametrize("name", ["hinge", "wasserstein", "wgan_gp"])
def test_hinge_and_wasserstein_generator_gradient_is_minus_one_everywhere(name):
    assert [slope_of_g(game_of(name).g_loss, logit) for logit in LOGITS] == [-1.0] * len(LOGITS)


def test_least_squares_generator_gradient_grows_with_the_distance_to_one():
    assert slope_of_g(losses.least_squares().g_loss, -50.0) == -51.0
    assert slope_of_g(losses.least_squares().g_loss, 50.0) == 49.0


def test_relativistic_generator_gradient_depends_on_the_real_logit_it_is_paired_with():
    won, lost = (slope_of_g(losses.relativistic().g_loss, 0.0, torch.tensor([real])) for real in (50.0, -50.0))
    assert won == pytest.approx(-1.0)
    assert lost == pytest.approx(-math.exp(-50), rel=1e-6)


def test_relativistic_losses_pair_each_real_with_its_own_fake():
    real, fake = draws(5)
    game = losses.relativistic()
    for loss in (game.d_loss(real, fake), game.g_loss(fake, real)):
        assert not torch.allclose(loss, game.d_loss(real, fake.flip(0)))
        assert loss.shape == (5,)
    torch.testing.assert_close(game.d_loss(real, fake), game.g_loss(real, fake))


def test_hinge_discriminator_gets_no_gradient_beyond_its_margins():
    real, fake = torch.tensor([50.0], requires_grad=True), torch.tensor([-50.0], requires_grad=True)
    losses.hinge().d_loss(real, fake).sum().backward()
    assert real.grad.item() == 0.0
    assert fake.grad.item() == 0.0


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
def test_shift_invariant_discriminator_loss_is_unchanged_by_a_shift_of_both_logits(name):
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
    game = game_of(name)
    assert torch.equal(game.d_loss(real + 8, fake + 8), game.d_loss(real, fake))


@each_game
def test_a_game_is_called_shift_invariant_where_a_shift_changes_no_gradient(name):
    game = game_of(name)

    def slopes(shift):
        real, fake = (logits.add(shift).requires_grad_() for logits in draws(6))
        of_d = torch.autograd.grad(game.d_loss(real, fake).sum(), (real, fake))
        of_g = torch.autograd.grad(loss_of_g(game, fake, real.detach()).sum(), fake)
        return torch.cat([*of_d, *of_g])

    assert torch.allclose(slopes(0.0), slopes(4.0), atol=1e-5) == game.shift_invariant
    assert game.shift_invariant == (name in SHIFT_INVARIANT)


@each_game
def test_generator_loss_of_a_paired_game_alone_asks_for_the_reals(name):
    fake, real = draws(3)
    game = game_of(name)
    assert game.paired == (name == "relativistic")
    with pytest.raises(TypeError):
        game.g_loss(*([fake] if game.paired else [fake, real]))


@pytest.mark.parametrize("batch", [1, 7])
@each_game
def test_losses_are_per_sample_and_each_depends_on_its_own_sample_alone(name, batch):
    real, fake = draws(batch)
    game = game_of(name)
    for loss in (game.d_loss, lambda real, fake: loss_of_g(game, fake, real)):
        singly = [loss(real[index : index + 1], fake[index : index + 1]) for index in range(batch)]
        assert loss(real, fake).shape == (batch,)
        torch.testing.assert_close(loss(real, fake), torch.cat(singly))


@each_game
def test_discriminator_lowers_a_fake_that_looks_real_and_the_generator_raises_it(name):
    game = game_of(name)
    real, fake = torch.tensor([0.75]), torch.tensor([0.25], requires_grad=True)
    (of_d,) = torch.autograd.grad(game.d_loss(real, fake).sum(), fake)
    (of_g,) = torch.autograd.grad(loss_of_g(game, fake, real).sum(), fake)
    assert of_d > 0
    assert of_g < 0


@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_label_smoothing_puts_the_best_logit_of_reals_where_its_probability_is_one_minus_it(name):
    real = torch.tensor([math.log(0.875 / 0.125)], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    smoothed, plain = game_of(name, label_smoothing=0.125), game_of(name)
    of_real, of_fake = torch.autograd.grad(smoothed.d_loss(real, fake).sum(), (real, fake))
    (without,) = torch.autograd.grad(plain.d_loss(real, fake).sum(), fake)
    assert of_real.item() == pytest.approx(0.0, abs=1e-15)
    assert torch.equal(of_fake, without)
    assert torch.equal(smoothed.g_loss(fake), plain.g_loss(fake))


@each_game
def test_each_game_has_its_published_defaults(name):
    game = game_of(name)
    assert game.d_steps == (5 if name in ("wasserstein", "wgan_gp") else 1)
    assert game.clip == 0.0
    assert (game.penalty is None) == (name != "wgan_gp")


@pytest.mark.parametrize("name", [name for name in GAMES if name != "relativistic"])
def test_discriminator_steps_reach_the_game(name):
    assert game_of(name, d_steps=2).d_steps == 2


def test_relativistic_game_takes_one_discriminator_step_and_no_option_to_change_it():
    assert plugins.options(losses.relativistic) == {}


def test_the_clip_of_wasserstein_and_the_weight_of_wgan_gp_reach_the_game():
    assert losses.wasserstein(clip=0.01).clip == 0.01
    assert losses.wasserstein(clip=0.01).penalty is None
    assert losses.wgan_gp().penalty.weight == 10.0
    penalty = losses.wgan_gp(gp_weight=2.0).penalty
    assert isinstance(penalty, GradientPenalty)
    assert (penalty.weight, penalty.every) == (2.0, 1)
