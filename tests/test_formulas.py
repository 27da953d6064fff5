"""Every loss, penalty and regularizer against its formula, derived anew, and its gradient against differences."""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from gantune import plugins
from gantune.penalties import Judged

LOGITS = (-1e4, -50.0, -3.0, -0.375, 0.0, 0.75, 2.5, 50.0, 1e4)
DIGITS = 100
STEP = Decimal("1e-12")


def sp(x):
    """log(1 + e^x), to DIGITS digits."""
    return max(x, Decimal(0)) + ((-abs(x)).exp() + 1).ln()


def bce(r, f):
    return sp(-r) + sp(f)


def wasserstein(r, f):
    return f - r


def least_squares(r, f):
    return ((r - 1) ** 2 + f**2) / 2


def hinge(r, f):
    return max(Decimal(0), 1 - r) + max(Decimal(0), 1 + f)


# component, options, discriminator (r, f), generator (f, r)
LOSSES = [
    ("minimax", {}, bce, lambda f, r: -sp(f)),
    ("minimax", {"label_smoothing": 0.125}, lambda r, f: bce(r, f) + r / 8, lambda f, r: -sp(f)),
    ("non_saturating", {}, bce, lambda f, r: sp(-f)),
    ("non_saturating", {"label_smoothing": 0.125}, lambda r, f: bce(r, f) + r / 8, lambda f, r: sp(-f)),
    ("least_squares", {}, least_squares, lambda f, r: (f - 1) ** 2 / 2),
    ("hinge", {}, hinge, lambda f, r: -f),
    ("wasserstein", {}, wasserstein, lambda f, r: -f),
    ("wgan_gp", {}, wasserstein, lambda f, r: -f),
    ("relativistic", {}, lambda r, f: sp(-(r - f)), lambda f, r: sp(r - f)),
]

each_loss = pytest.mark.parametrize(
    ("name", "options", "d", "g"), LOSSES, ids=[f"{name}{'_smoothed' * bool(options)}" for name, options, *_ in LOSSES]
)
each_precision = pytest.mark.parametrize(
    ("dtype", "near"),
    [(torch.float32, {"rel": 1e-6, "abs": 1e-37}), (torch.float64, {"rel": 1e-9, "abs": 0})],
    ids=["float32", "float64"],
)


def exactly(formula, *logits):
    """The formula at a pair of logits, and its slope along the first and the second."""
    with localcontext() as context:
        context.prec = DIGITS
        a, b = map(Decimal, logits)
        along_a = (formula(a + STEP, b) - formula(a - STEP, b)) / (2 * STEP)
        along_b = (formula(a, b + STEP) - formula(a, b - STEP)) / (2 * STEP)
        return float(formula(a, b)), float(along_a), float(along_b)


def pairs(dtype):
    first, second = torch.meshgrid(*[torch.tensor(LOGITS, dtype=dtype)] * 2, indexing="ij")
    return first.flatten().requires_grad_(), second.flatten().requires_grad_()


@each_precision
@each_loss
def test_discriminator_loss_and_its_slopes_equal_their_formula_at_every_pair_of_logits(
    name, options, d, g, dtype, near
):
    real, fake = pairs(dtype)
    loss = plugins.resolve("loss", name)(**options).d_loss(real, fake)
    slopes = torch.autograd.grad(loss.sum(), (real, fake))
    for found, expected in zip(
        (loss, *slopes), zip(*[exactly(d, r, f) for r in LOGITS for f in LOGITS], strict=True), strict=True
    ):
        assert found.dtype == dtype
        assert found.tolist() == pytest.approx(list(expected), **near)


@each_precision
@each_loss
def test_generator_loss_and_its_slope_equal_their_formula_at_every_pair_of_logits(name, options, d, g, dtype, near):
    fake, real = pairs(dtype)
    game = plugins.resolve("loss", name)(**options)
    loss = game.g_loss(fake, real.detach()) if game.paired else game.g_loss(fake)
    (slope,) = torch.autograd.grad(loss.sum(), fake)
    expected = [exactly(g, f, r) for f in LOGITS for r in LOGITS]
    assert loss.tolist() == pytest.approx([value for value, *_ in expected], **near)
    assert slope.tolist() == pytest.approx([along_fake for _, along_fake, _ in expected], **near)


def test_every_built_in_loss_is_held_to_a_formula():
    assert {name for name, *_ in LOSSES} == set(plugins.BUILTIN["loss"])


# A small smooth critic, twice: as a module, and by hand with the gradient written out.

SAMPLE = (1, 3, 3)
COUNT = 5


class Critic(nn.Module):
    """<v, softplus(W2 tanh(W1 x + b1) + b2)>, which remembers what it was shown."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.from_numpy(weight.copy())) for weight in weights])
        self.shown = []

    def forward(self, samples):
        self.shown.append(samples.detach().numpy())
        w1, b1, w2, b2, v = self.weights
        return nn.functional.softplus((samples.flatten(1) @ w1.T + b1).tanh() @ w2.T + b2) @ v


def logits_of(weights, samples):
    w1, b1, w2, b2, v = weights
    return np.logaddexp(0, np.tanh(samples.reshape(len(samples), -1) @ w1.T + b1) @ w2.T + b2) @ v


def squared_slopes_of(weights, samples):
    w1, b1, w2, b2, v = weights
    inner = np.tanh(samples.reshape(len(samples), -1) @ w1.T + b1)  # [B, 4]
    outer = v / (1 + np.exp(-(inner @ w2.T + b2)))  # [B, 3]
    return np.square(((outer @ w2) * (1 - inner**2)) @ w1).sum(1)


@dataclass(frozen=True)
class Scene:
    """What a term was called with: arrays, the earlier batch, and what it showed the critic by itself."""

    weights: list
    real: np.ndarray
    fake: np.ndarray
    earlier_real: np.ndarray
    earlier_fake: np.ndarray
    shown: list


def unit_slope(weights, scene):
    (points,) = scene.shown
    return (np.sqrt(squared_slopes_of(weights, points)) - 1) ** 2


def r1(weights, scene):
    return squared_slopes_of(weights, scene.real) / 2


def r2(weights, scene):
    return squared_slopes_of(weights, scene.fake) / 2


def lecam(weights, scene, decay):
    """The anchors stay those of the weights in force, whatever the weights that are tried."""

    def anchor(first, second):
        first, second = logits_of(scene.weights, first).mean(), logits_of(scene.weights, second).mean()
        return (decay * (1 - decay) * first + (1 - decay) * second) / (1 - decay**2)

    real, fake = logits_of(weights, scene.real), logits_of(weights, scene.fake)
    above = np.maximum(real - anchor(scene.earlier_fake, scene.fake), 0)
    below = np.maximum(anchor(scene.earlier_real, scene.real) - fake, 0)
    return above**2 + below**2


def consistency(weights, scene):
    (moved,) = scene.shown
    return (logits_of(weights, moved) - logits_of(weights, scene.real)) ** 2


TERMS = [
    ("penalty", "gradient_penalty", {}, unit_slope),
    ("penalty", "dragan", {}, unit_slope),
    ("penalty", "r1", {}, r1),
    ("penalty", "r2", {}, r2),
    ("penalty", "r1_r2", {}, lambda weights, scene: r1(weights, scene) + r2(weights, scene)),
    ("regularizer", "lecam", {"decay": 0.75}, partial(lecam, decay=0.75)),
    ("regularizer", "consistency", {}, consistency),
    ("regularizer", "consistency", {"mirror": True}, consistency),
]

each_term = pytest.mark.parametrize(
    ("kind", "name", "options", "formula"),
    TERMS,
    ids=[f"{name}{'_mirrored' * ('mirror' in options)}" for _, name, options, _ in TERMS],
)
each_scale = pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])


def staged(kind, name, options, scale):
    """A term's values on a batch that follows another one, the critic, and the scene."""
    draws = np.random.default_rng(0)
    shapes = [(4, 9), (4,), (3, 4), (3,), (3,)]
    weights = [draws.normal(0, 0.7, shape) for shape in shapes]
    weights[-1] *= scale
    batches = [draws.normal(size=(COUNT, *SAMPLE)) for _ in range(4)]
    critic, stream = Critic(weights), torch.Generator().manual_seed(0)
    term = plugins.resolve(kind, name)(**options).double()
    for index in (2, 0):
        real, fake = (torch.from_numpy(batch).clone() for batch in batches[index : index + 2])
        real.requires_grad_("real" in term.slopes_of)
        fake.requires_grad_("fake" in term.slopes_of)
        logits = critic(real), critic(fake)
        critic.shown.clear()
        values = term(
            Judged(judge=critic, real=real, fake=fake, logits_real=logits[0], logits_fake=logits[1], generator=stream)
        )
    return values, critic, Scene(weights, *batches, shown=list(critic.shown))


@each_scale
@each_term
def test_penalty_of_every_sample_equals_its_formula(kind, name, options, formula, scale):
    values, _, scene = staged(kind, name, options, scale)
    expected = formula(scene.weights, scene)
    assert values.shape == (COUNT,)
    assert expected.max() > 0.01
    np.testing.assert_allclose(values.detach().numpy(), expected, rtol=1e-8, atol=1e-12 * scale**2)


@each_scale
@each_term
def test_gradient_of_the_penalty_along_every_weight_equals_differences(kind, name, options, formula, scale):
    values, critic, scene = staged(kind, name, options, scale)
    found = torch.autograd.grad(values.mean(), list(critic.weights))
    for index, weight in enumerate(scene.weights):
        expected = np.zeros_like(weight)
        step = 1e-5 * (scale if index == len(scene.weights) - 1 else 1.0)
        for place in np.ndindex(weight.shape):
            ends = []
            for signed in (step, -step):
                tried = [each.copy() for each in scene.weights]
                tried[index][place] += signed
                ends.append(formula(tried, scene).mean())
            expected[place] = (ends[0] - ends[1]) / (2 * step)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found[index].numpy(), expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


def test_every_built_in_penalty_and_regularizer_is_held_to_a_formula():
    known = {(kind, name) for kind in ("penalty", "regularizer") for name in plugins.BUILTIN[kind]}
    assert {(kind, name) for kind, name, *_ in TERMS} == known - {("penalty", "none"), ("regularizer", "none")}
