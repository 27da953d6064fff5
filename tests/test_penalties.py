import pytest
import torch
from torch import nn

from gantune import plugins
from gantune.penalties import EPSILON, Judged, dragan_penalty, gradient_penalty, zero_centred

SHAPE = (2, 3, 3)


class Linear(nn.Module):
    """D(x) = <w, x>, whose gradient is w at every picture."""

    def __init__(self, norm):
        super().__init__()
        direction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.weight = nn.Parameter((norm * direction / direction.norm()).float())

    def forward(self, pictures):
        return (pictures * self.weight).flatten(1).sum(1)


class Quadratic(nn.Module):
    """D(x) = 1/2 <a, x^2>, whose gradient at x is a x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)))

    def forward(self, pictures):
        return 0.5 * (self.weight * pictures.square()).flatten(1).sum(1)


class Spy(nn.Module):
    """Another critic that keeps the pictures it was shown."""

    def __init__(self, critic):
        super().__init__()
        self.critic = critic
        self.seen = []

    def forward(self, pictures):
        self.seen.append(pictures.detach().clone())
        return self.critic(pictures)


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=generator), torch.randn(count, *SHAPE, generator=generator)


def mixing(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_critic():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))


def judged(critic, real, fake, seed=0, slopes_of=frozenset()):
    real, fake = real.clone().requires_grad_("real" in slopes_of), fake.clone().requires_grad_("fake" in slopes_of)
    return Judged(
        judge=critic,
        real=real,
        fake=fake,
        logits_real=critic(real),
        logits_fake=critic(fake),
        generator=mixing(seed),
    )


def built(name, **options):
    return plugins.resolve("penalty", name)(**options)


PENALTIES = [name for name in plugins.BUILTIN["penalty"] if name != "none"]
each_penalty = pytest.mark.parametrize("name", PENALTIES)


@pytest.mark.parametrize("count", [1, 2, 64])
def test_gradient_penalty_of_a_critic_of_unit_slope_is_zero_at_any_batch_size(count):
    penalty = gradient_penalty(Linear(1.0), *batches(count), mixing())
    assert penalty.shape == (count,)
    assert penalty.abs().max() < 1e-10


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("norm", [0.25, 3.0])
def test_gradient_penalty_of_a_linear_critic_is_the_squared_distance_of_its_slope_from_one(norm, count):
    penalty = gradient_penalty(Linear(norm), *batches(count), mixing())
    torch.testing.assert_close(penalty, torch.full((count,), (norm - 1) ** 2), rtol=1e-5, atol=0)


def test_gradient_penalty_of_a_quadratic_critic_equals_its_closed_form():
    critic = Quadratic()
    spy = Spy(critic)
    penalty = gradient_penalty(spy, *batches(5), mixing())
    norms = (critic.weight * spy.seen[0]).flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty, (norms - 1).square())


def test_each_sample_has_a_mixing_weight_of_its_own_and_one_for_all_its_pixels():
    spy = Spy(Linear(1.0))
    gradient_penalty(spy, torch.ones(64, *SHAPE), torch.zeros(64, *SHAPE), mixing())
    (between,) = spy.seen
    alpha = between.flatten(1)
    assert torch.equal(alpha, alpha[:, :1].expand_as(alpha))
    assert len(alpha[:, 0].unique()) == 64
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    assert 0.3 < alpha[:, 0].mean() < 0.7


def test_points_lie_on_the_line_between_each_real_and_its_own_fake():
    spy = Spy(Linear(1.0))
    real, fake = batches(16)
    gradient_penalty(spy, real, fake, mixing())
    share = (spy.seen[0] - fake).flatten(1) / (real - fake).flatten(1)  # [B, pixels]
    torch.testing.assert_close(share, share.median(1, keepdim=True).values.expand_as(share), rtol=1e-2, atol=1e-3)


def test_points_depend_on_the_generator_alone():
    real, fake = batches(8)
    spies = [Spy(Linear(1.0)) for _ in range(3)]
    for spy, seed in zip(spies, (0, 0, 1), strict=True):
        torch.randn(3)
        gradient_penalty(spy, real, fake, mixing(seed))
    first, again, other = (spy.seen[0] for spy in spies)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gradient_penalty_leaves_the_global_stream_of_randomness_alone():
    before = torch.get_rng_state()
    gradient_penalty(Linear(1.0), *batches(4), mixing())
    assert torch.equal(torch.get_rng_state(), before)


def test_penalties_of_a_sample_do_not_depend_on_the_other_samples():
    critic = smooth_critic()
    real, fake = batches(6)
    others_real, others_fake = batches(6, seed=9)
    others_real[2], others_fake[2] = real[2], fake[2]
    here = gradient_penalty(critic, real, fake, mixing())
    there = gradient_penalty(critic, others_real, others_fake, mixing())
    torch.testing.assert_close(here[2], there[2])
    assert not torch.allclose(here[3], there[3])


def test_gradient_penalty_does_not_reach_back_into_the_pictures():
    real, fake = batches(4)
    real.requires_grad_(True)
    fake.requires_grad_(True)
    gradient_penalty(Quadratic(), real, fake, mixing()).sum().backward()
    assert real.grad is None
    assert fake.grad is None


def test_gradient_penalty_has_a_finite_gradient_where_the_slope_is_exactly_zero():
    critic = Linear(0.0)
    penalty = gradient_penalty(critic, *batches(4), mixing())
    penalty.mean().backward()
    torch.testing.assert_close(penalty, torch.full((4,), (EPSILON**0.5 - 1) ** 2))
    assert torch.isfinite(critic.weight.grad).all()


def test_gradient_penalty_has_a_finite_gradient_where_some_samples_are_dead():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(18, 1), nn.ReLU(), nn.Flatten(0))
    nn.init.constant_(critic[1].weight, 1.0)
    nn.init.zeros_(critic[1].bias)
    pictures = torch.cat([torch.full((2, *SHAPE), -1.0), torch.full((2, *SHAPE), 1.0)])
    penalty = gradient_penalty(critic, pictures, pictures, mixing())
    penalty.mean().backward()
    torch.testing.assert_close(penalty, torch.tensor([1.0, 1.0, *[(18**0.5 - 1) ** 2] * 2]), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(critic[1].weight.grad).all()


def test_gradient_penalty_teaches_the_critic_by_its_second_derivative():
    critic = Linear(3.0)
    gradient_penalty(critic, *batches(8), mixing()).mean().backward()
    weight = critic.weight.detach()
    torch.testing.assert_close(critic.weight.grad, 2 * (weight.norm() - 1) * weight / weight.norm())


def test_r1_of_a_linear_critic_is_half_the_squared_slope_of_every_sample():
    pictures = batches(5)[0].requires_grad_(True)
    penalty = zero_centred(Linear(3.0)(pictures), pictures)
    torch.testing.assert_close(penalty, torch.full((5,), 4.5))


def test_r1_of_a_quadratic_critic_equals_its_closed_form():
    critic = Quadratic()
    pictures = batches(5)[0].requires_grad_(True)
    expected = 0.5 * (critic.weight * pictures).square().flatten(1).sum(1)
    torch.testing.assert_close(zero_centred(critic(pictures), pictures), expected)


def test_r1_and_its_gradient_are_zero_where_the_slope_is_exactly_zero():
    critic = Linear(0.0)
    pictures = batches(4)[0].requires_grad_(True)
    penalty = zero_centred(critic(pictures), pictures)
    penalty.mean().backward()
    assert torch.equal(penalty, torch.zeros(4))
    assert torch.equal(critic.weight.grad, torch.zeros(SHAPE))


def test_r1_teaches_the_critic_by_its_second_derivative():
    critic = Linear(3.0)
    pictures = batches(8)[0].requires_grad_(True)
    zero_centred(critic(pictures), pictures).mean().backward()
    torch.testing.assert_close(critic.weight.grad, critic.weight.detach())


def test_r1_leaves_the_graph_of_the_logits_to_the_loss():
    critic = smooth_critic()
    pictures = batches(4)[0].requires_grad_(True)
    logits = critic(pictures)
    (logits.mean() + zero_centred(logits, pictures).mean()).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in critic.parameters())


def test_r2_reads_the_fakes_and_r1_the_reals():
    critic, (real, fake) = Quadratic(), batches(5)
    alone = {}
    for name, samples in (("r1", real), ("r2", fake)):
        penalty = built(name)
        alone[name] = penalty(judged(critic, real, fake, slopes_of=penalty.slopes_of))
        expected = 0.5 * (critic.weight * samples).square().flatten(1).sum(1)
        torch.testing.assert_close(alone[name], expected)
    both = built("r1_r2")
    torch.testing.assert_close(both(judged(critic, real, fake, slopes_of=both.slopes_of)), alone["r1"] + alone["r2"])


def test_dragan_of_a_critic_of_unit_slope_is_zero_and_of_a_linear_one_its_distance_from_it():
    real, _ = batches(64)
    assert dragan_penalty(Linear(1.0), real, mixing()).abs().max() < 1e-10
    torch.testing.assert_close(dragan_penalty(Linear(3.0), real, mixing()), torch.full((64,), 4.0))


def test_dragan_points_lie_above_the_reals_by_up_to_half_their_deviation():
    spy, (real, _) = Spy(Linear(1.0)), batches(256)
    real = 3 * real + 5
    dragan_penalty(spy, real, mixing())
    moved = (spy.seen[0] - real).flatten(1) / (0.5 * real.std())  # a * u
    assert moved.min() >= -1e-5
    assert 0.9 < moved.max() <= 1
    assert moved.mean().item() == pytest.approx(0.25, abs=0.03)  # a and u are 1/2 each on average


def test_dragan_noise_is_new_in_every_element_under_one_size_a_sample():
    real = torch.zeros(64, 1, 32, 32)
    real[:, :, ::2] = 1.0
    points = []
    dragan_penalty(lambda seen: points.append(seen.detach()) or seen.sum((1, 2, 3)), real, mixing())
    moved = (points[0] - real).flatten(1) / (0.5 * real.std())
    sizes = moved.max(1).values  # of 1024 draws from [0, a) the largest is all but a
    assert sizes.min() < 0.1
    assert sizes.max() > 0.9
    torch.testing.assert_close(moved.mean(1), sizes / 2, rtol=0.1, atol=1e-3)
    assert moved[0].unique().numel() > 1000
    assert sizes.unique().numel() == 64


def test_dragan_does_not_read_the_fakes():
    critic, (real, fake) = smooth_critic(), batches(6)
    here, there = (built("dragan")(judged(critic, real, other)) for other in (fake, fake + 9))
    assert torch.equal(here, there)


@pytest.mark.parametrize("name", ["gradient_penalty", "dragan"])
def test_points_of_a_double_batch_are_double(name):
    spy = Spy(smooth_critic().double())
    penalty = built(name)(judged(spy, *(batch.double() for batch in batches(3))))
    assert {seen.dtype for seen in spy.seen} == {torch.float64}
    assert penalty.dtype == torch.float64


@each_penalty
def test_penalty_of_a_critic_without_slope_has_finite_gradients_and_its_own_value(name):
    critic, penalty = Linear(0.0), built(name)
    values = penalty(judged(critic, *batches(4), slopes_of=penalty.slopes_of))
    values.mean().backward()
    wanted = (EPSILON**0.5 - 1) ** 2 if name in ("gradient_penalty", "dragan") else 0.0
    torch.testing.assert_close(values, torch.full((4,), wanted))
    assert torch.isfinite(critic.weight.grad).all()


@each_penalty
def test_penalty_depends_on_its_generator_alone_and_leaves_the_global_stream_alone(name):
    critic, penalty = smooth_critic(), built(name)
    before = torch.get_rng_state()
    values = [
        penalty(judged(critic, *batches(4), seed=seed, slopes_of=penalty.slopes_of)).detach() for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2]) == bool(penalty.slopes_of)


@each_penalty
def test_penalty_judges_anew_only_where_it_looks_at_points_of_its_own(name):
    spy, penalty = Spy(smooth_critic()), built(name)
    at = judged(spy, *batches(4), slopes_of=penalty.slopes_of)
    spy.seen.clear()
    penalty(at)
    assert len(spy.seen) == (0 if penalty.slopes_of else 1)


@each_penalty
def test_penalty_has_its_published_weight_and_takes_another(name):
    assert built(name).weight == (10.0 if name in ("gradient_penalty", "dragan") else 1.0)
    assert built(name).every == 1
    penalty = built(name, weight=0.25, every=16)
    assert (penalty.weight, penalty.every) == (0.25, 16)
    assert repr(penalty) != repr(built(name, weight=0.25))
    assert repr(penalty) != repr(built(name, every=16))


@each_penalty
def test_weight_and_interval_of_a_penalty_are_left_to_the_caller(name):
    light, heavy = built(name, weight=0.5), built(name, weight=5.0, every=4)
    critic = smooth_critic()
    values = [penalty(judged(critic, *batches(4), slopes_of=penalty.slopes_of)).detach() for penalty in (light, heavy)]
    assert torch.equal(*values)


def test_no_penalty_is_nothing():
    assert built("none") is None
