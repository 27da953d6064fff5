import copy
import math

import pytest
import torch

from gantune import losses
from gantune.augmentation import Augmentation
from gantune.config import (
    CollapseConfig,
    Component,
    DataConfig,
    ObjectiveConfig,
    TrialConfig,
)
from gantune.data.data_set import Batch
from gantune.errors import CheckpointError, GantuneError, PluginError
from gantune.losses import hinge_d
from gantune.models.networks import ImageShape, PointShape
from gantune.penalties import Penalty, dragan_penalty, gradient_penalty, zero_centred
from gantune.regularizers import lecam_term
from gantune.trainer import EMA_RAMP, SIGNALS, GANTrainer, choose_device, half_precision

SHAPE = ImageShape(1, 8)
CPU = torch.device("cpu")
LOSSES = {
    "minimax": {},
    "non_saturating": {"label_smoothing": 0.1},
    "least_squares": {"d_steps": 2},
    "hinge": {},
    "wasserstein": {"clip": 0.05, "d_steps": 2},
    "wgan_gp": {"gp_weight": 10.0, "d_steps": 2},
    "relativistic": {},
}
OPTIMIZERS = {
    "adam": {"beta1": 0.5},
    "adamw": {"weight_decay": 0.01},
    "rmsprop": {"momentum": 0.5},
    "plain rmsprop": {},
    "sgd": {"momentum": 0.9, "nesterov": True},
    "plain sgd": {},
}
ADAM = {"beta1": 0.3, "beta2": 0.9}


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def mlp(**options):
    return component("mlp", **{"hidden": 8, "depth": 1, "z_dim": 4, **options})


def dcgan(**options):
    return component("dcgan", **{"width": 4, "z_dim": 4, **options})


def make(shape=SHAPE, **changes):
    values = {
        "data": DataConfig(),
        "objective": ObjectiveConfig(),
        "collapse": CollapseConfig(),
        "samples": 1000,
        "target": None,
        "seed": 0,
        "architecture": mlp(),
        "loss": component("hinge"),
        "optimizer": component("adam", **ADAM),
        "lr_g": 1e-2,
        "batch_size": 4,
    }
    return GANTrainer(TrialConfig(**{**values, **changes}), shape, CPU)


def source(seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        samples = torch.rand(count, *shape.dims, generator=generator) * 2 - 1
        return Batch(samples, torch.randint(shape.classes, (count,), generator=generator) if shape.classes else None)

    return draw


def always(samples, labels=None):
    return lambda count: Batch(samples.clone(), labels)


def real(count=4, seed=0):
    return source(seed)(count).samples


def named(thing):
    """A component of this module."""
    return component(f"{__name__}:{thing.__name__}")


def idle():
    """An optimizer that leaves the weights alone."""
    return lambda parameters, lr: torch.optim.SGD(parameters, lr=0.0)


def latents(trainer):
    return torch.randn(4, trainer.z_dim, generator=trainer.noise)


def hear(network):
    """The arguments and results of every call of a network from now on."""
    heard = []
    network.register_forward_hook(lambda module, given, returned: heard.append((given, returned)))
    return heard


def weights(network):
    return [weight.detach().clone() for weight in network.parameters()]


def equal(one, two):
    return all(torch.equal(left, right) for left, right in zip(one, two, strict=True))


def same_state(one, two):
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one
    )


def rates(trainer):
    return [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers(trainer)]


def optimizers(trainer):
    return trainer.optimizer_g, trainer.optimizer_d


def watch(optimizer, trainer, seen):
    """Keep the weights of both networks as they are before and after each step of one optimizer."""
    take_step = optimizer.step

    def step():
        before = weights(trainer.generator), weights(trainer.discriminator)
        take_step()
        seen.append((before, (weights(trainer.generator), weights(trainer.discriminator))))

    optimizer.step = step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_learning_rates_in_force_are_the_configurations_own(name):
    trainer = make(optimizer=component(name.split()[-1], **OPTIMIZERS[name]), lr_g=3e-4, lr_d_ratio=4.0)
    assert rates(trainer) == [[3e-4], [3e-4 * 4.0]]


def test_the_options_of_the_optimizer_are_in_force_for_both_networks():
    for optimizer in optimizers(make(optimizer=component("adam", beta1=0.1, beta2=0.95))):
        assert optimizer.param_groups[0]["betas"] == (0.1, 0.95)
    for optimizer in optimizers(make(optimizer=component("rmsprop", alpha=0.9, momentum=0.2))):
        assert (optimizer.param_groups[0]["alpha"], optimizer.param_groups[0]["momentum"]) == (0.9, 0.2)
    for optimizer in optimizers(make(optimizer=component("sgd", momentum=0.7, nesterov=True))):
        assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["nesterov"]) == (0.7, True)


@pytest.mark.parametrize("kind", ["optimizer", "optimizer_d"])
def test_an_optimizer_that_refuses_its_options_is_a_plugin_error_that_names_it(kind):
    with pytest.raises(PluginError, match=r"`sgd`.*[Mm]omentum"):
        make(**{kind: component("sgd", momentum=0.0, nesterov=True)})


def test_the_discriminator_has_an_optimizer_of_its_own_where_one_is_given():
    trainer = make(optimizer_d=component("sgd", momentum=0.5), lr_d_ratio=2.0)
    assert isinstance(trainer.optimizer_g, torch.optim.Adam)
    assert isinstance(trainer.optimizer_d, torch.optim.SGD)
    assert rates(trainer) == [[1e-2], [2e-2]]


def test_each_optimizer_holds_exactly_the_weights_of_its_network():
    trainer = make()
    for optimizer, network in zip(optimizers(trainer), (trainer.generator, trainer.discriminator), strict=True):
        held = [weight for group in optimizer.param_groups for weight in group["params"]]
        assert [id(weight) for weight in held] == [id(weight) for weight in network.parameters()]


def test_rates_and_betas_stay_the_configurations_own_after_loading_a_state_saved_under_others():
    other = make(optimizer=component("adam", beta1=0.9, beta2=0.999), lr_g=0.1, lr_d_ratio=0.25)
    other.step(source())
    trainer = make(optimizer=component("adam", beta1=0.1, beta2=0.95), lr_g=1e-3, lr_d_ratio=2.0)
    trainer.load_state(other.state())
    assert rates(trainer) == [[1e-3], [2e-3]]
    assert all(optimizer.param_groups[0]["betas"] == (0.1, 0.95) for optimizer in optimizers(trainer))
    trainer.step(source(1))
    assert rates(trainer) == [[1e-3], [2e-3]]


def test_rates_that_were_meddled_with_are_set_right_before_the_next_step():
    left, meddled = make(), make()
    for optimizer in optimizers(meddled):
        optimizer.param_groups[0].update(lr=0.0, betas=(0.99, 0.1), weight_decay=0.5)
    for trainer in (left, meddled):
        trainer.step(source())
    assert same_state(left.state(), meddled.state())


def test_a_state_that_was_taken_does_not_move_with_the_training():
    trainer = make(architecture=dcgan())
    trainer.step(source())
    state = trainer.state()
    kept = copy.deepcopy(state)
    trainer.step(source(1))
    assert same_state(state, kept)
    assert not same_state(trainer.state(), kept)


def test_a_loaded_state_is_not_moved_by_the_training_that_follows():
    trainer = make()
    trainer.step(source())
    state = trainer.state()
    kept = copy.deepcopy(state)
    other = make()
    other.load_state(state)
    other.step(source(1))
    assert same_state(state, kept)


@pytest.mark.parametrize("change", [{"architecture": mlp(hidden=9)}, {"architecture": dcgan()}], ids=["width", "kind"])
def test_the_state_of_another_architecture_is_a_checkpoint_error(change):
    trainer, other = make(), make(**change)
    with pytest.raises(CheckpointError, match="does not fit"):
        trainer.load_state(other.state())


def test_an_empty_state_is_a_checkpoint_error():
    with pytest.raises(CheckpointError, match="does not fit"):
        make().load_state({})


def test_clipping_bounds_every_weight_of_the_discriminator_and_none_of_the_generator():
    trainer = make(loss=component("wasserstein", clip=0.01, d_steps=1), optimizer=component("rmsprop"))
    for _ in range(3):
        trainer.step(source())
        assert all(weight.abs().max() <= 0.01 for weight in weights(trainer.discriminator))
    assert any(weight.abs().max() > 0.01 for weight in weights(trainer.generator))


def test_no_clip_bounds_nothing():
    trainer = make(loss=component("wasserstein", clip=0.0, d_steps=1))
    trainer.step(source())
    assert any(weight.abs().max() > 0.01 for weight in weights(trainer.discriminator))


@pytest.mark.parametrize("d_steps", [1, 3])
def test_progress_counts_the_real_samples_of_every_discriminator_step(d_steps):
    trainer = make(loss=component("hinge", d_steps=d_steps))
    drawn = []
    draw = source()

    def draw_real(count):
        drawn.append(count)
        return draw(count)

    for _ in range(2):
        trainer.step(draw_real)
    assert drawn == [4] * d_steps * 2
    assert trainer.samples_seen == sum(drawn)


@pytest.mark.parametrize("halflife", [3, 40, 10**9])
@pytest.mark.parametrize("d_steps", [1, 2])
def test_the_average_moves_by_its_half_life_in_samples_under_its_ramp(halflife, d_steps):
    trainer = make(loss=component("hinge", d_steps=d_steps), ema_halflife_samples=halflife)
    expected = [weight.double() for weight in weights(trainer.generator)]
    draw = source()
    for step in range(1, 41):
        trainer.step(draw)
        seen = 4 * d_steps * step
        beta = 0.5 ** (4 * d_steps / min(halflife, EMA_RAMP * seen))
        expected = [
            beta * old + (1 - beta) * new.double()
            for old, new in zip(expected, weights(trainer.generator), strict=True)
        ]
    for averaged, wanted in zip(weights(trainer.ema_generator), expected, strict=True):
        torch.testing.assert_close(averaged.double(), wanted, rtol=1e-4, atol=1e-6)
    assert not equal(weights(trainer.ema_generator), weights(trainer.generator))


def test_a_half_life_of_zero_keeps_no_average():
    trainer = make(ema_halflife_samples=0)
    for _ in range(3):
        trainer.step(source())
        assert equal(weights(trainer.ema_generator), weights(trainer.generator))


def test_buffers_of_batch_norm_are_copied_along_with_the_average():
    trainer = make(architecture=dcgan(norm_g="batch"), ema_halflife_samples=10**6)
    start = {name: buffer.clone() for name, buffer in trainer.generator.named_buffers()}
    for _ in range(3):
        trainer.step(source())
    averaged, current = dict(trainer.ema_generator.named_buffers()), dict(trainer.generator.named_buffers())
    assert current
    assert all(torch.equal(averaged[name], current[name]) for name in current)
    assert not any(torch.equal(averaged[name], start[name]) for name in current)


def test_the_average_stays_in_eval_mode_and_takes_no_gradient():
    trainer = make(architecture=dcgan())
    trainer.step(source())
    assert not trainer.ema_generator.training
    assert trainer.generator.training
    assert trainer.discriminator.training
    assert all(weight.grad is None and not weight.requires_grad for weight in trainer.ema_generator.parameters())


@pytest.mark.parametrize("loss", LOSSES)
def test_each_optimizer_step_moves_its_own_network_alone(loss):
    trainer = make(loss=component(loss, **LOSSES[loss]))
    moved_by_g, moved_by_d = [], []
    watch(trainer.optimizer_g, trainer, moved_by_g)
    watch(trainer.optimizer_d, trainer, moved_by_d)
    trainer.step(source())
    assert len(moved_by_g) == 1
    assert len(moved_by_d) == trainer.game.d_steps
    for (g_before, d_before), (g_after, d_after) in moved_by_d:
        assert equal(g_before, g_after)
        assert not equal(d_before, d_after)
    for (g_before, d_before), (g_after, d_after) in moved_by_g:
        assert not equal(g_before, g_after)
        assert equal(d_before, d_after)


@pytest.mark.parametrize(
    ("penalty", "sides"),
    [("none", [False, False]), ("r1", [True, False]), ("r2", [False, True]), ("r1_r2", [True, True])],
)
def test_only_the_generator_step_reaches_the_generator_through_the_fakes(penalty, sides):
    trainer = make(penalty=component(penalty))
    reached = []
    trainer.discriminator.register_forward_pre_hook(lambda module, args: reached.append(args[0].requires_grad))
    trainer.step(source())
    assert reached == [*sides, True]


def test_the_generator_step_leaves_no_gradient_in_the_discriminator():
    trainer = make()
    gradients = []
    take_step = trainer.optimizer_d.step

    def step():
        gradients.extend(weight.grad.clone() for weight in trainer.discriminator.parameters())
        take_step()

    trainer.optimizer_d.step = step
    trainer.step(source())
    assert equal(gradients, [weight.grad for weight in trainer.discriminator.parameters()])


@pytest.mark.parametrize(("frozen", "moving"), [("g", "d"), ("d", "g")])
def test_a_rate_of_zero_freezes_one_network_and_not_the_other(frozen, moving):
    parts = {"g": component("sgd"), "d": component("sgd"), frozen: named(idle)}
    trainer = make(optimizer=parts["g"], optimizer_d=parts["d"])
    networks = {"g": trainer.generator, "d": trainer.discriminator}
    before = {name: weights(network) for name, network in networks.items()}
    trainer.step(source())
    assert equal(weights(networks[frozen]), before[frozen])
    assert not equal(weights(networks[moving]), before[moving])


PENALTIES = {
    "none": lambda judge, real, fake, mixing: torch.zeros(1),
    "gradient_penalty": gradient_penalty,
    "dragan": lambda judge, real, fake, mixing: dragan_penalty(judge, real, mixing),
    "r1": lambda judge, real, fake, mixing: zero_centred(judge(real), real),
    "r2": lambda judge, real, fake, mixing: zero_centred(judge(fake), fake),
    "r1_r2": lambda judge, real, fake, mixing: zero_centred(judge(real), real) + zero_centred(judge(fake), fake),
}


def assert_descended(network, start, slopes, lr):
    for weight, old, slope in zip(weights(network), start, slopes, strict=True):
        torch.testing.assert_close(weight, old - lr * (0 if slope is None else slope), rtol=1e-5, atol=1e-7)


def d_slopes(trainer, loss):
    return torch.autograd.grad(loss, list(trainer.discriminator.parameters()), allow_unused=True)


@pytest.mark.parametrize("regularizer", ["none", "lecam"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_discriminator_step_descends_its_loss_plus_the_weighted_penalties_in_one_step(penalty, regularizer):
    parts = {
        "penalty": component(penalty, **({} if penalty == "none" else {"weight": 3.0})),
        "regularizer": component(regularizer, **({"weight": 7.0} if regularizer == "lecam" else {})),
        "optimizer": component("sgd"),
        "lr_d_ratio": 5.0,
    }
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())

    reals, fakes = real().requires_grad_(True), twin.generator(latents(twin)).detach().requires_grad_(True)
    r, f = twin.discriminator(reals), twin.discriminator(fakes)
    terms = 3.0 * PENALTIES[penalty](twin.discriminator, reals, fakes, twin.mixing).mean()
    if regularizer == "lecam":
        terms = terms + 7.0 * lecam_term(r, f, r.mean().detach(), f.mean().detach()).mean()
    loss = hinge_d(r, f).mean()
    assert_descended(trainer.discriminator, weights(twin.discriminator), d_slopes(twin, loss + terms), lr=5e-2)
    signals = trainer.take_signals()
    assert signals["loss_d"] == pytest.approx(loss.item(), rel=1e-5)
    assert signals["penalty"] == pytest.approx(terms.item(), rel=1e-5)
    assert (signals["penalty"] != 0) == (penalty != "none" or regularizer != "none")


def test_a_wgan_gp_brings_its_own_gradient_penalty():
    parts = {"loss": component("wgan_gp", gp_weight=3.0, d_steps=1), "optimizer": component("sgd")}
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())
    fakes = twin.generator(latents(twin)).detach()
    loss = (twin.discriminator(fakes) - twin.discriminator(real())).mean()
    term = 3.0 * gradient_penalty(twin.discriminator, real(), fakes, twin.mixing).mean()
    assert_descended(trainer.discriminator, weights(twin.discriminator), d_slopes(twin, loss + term), lr=1e-2)
    assert trainer.take_signals()["penalty"] == pytest.approx(term.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_smoothed_labels_are_in_force(loss):
    parts = {"loss": component(loss, label_smoothing=0.2), "optimizer": component("sgd")}
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())
    r, f = twin.discriminator(real()), twin.discriminator(twin.generator(latents(twin)).detach())
    target = torch.full_like(r, 1 - 0.2)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    told = cross_entropy(r, target) + cross_entropy(f, torch.zeros_like(f))
    assert_descended(trainer.discriminator, weights(twin.discriminator), d_slopes(twin, told), lr=1e-2)
    assert trainer.take_signals()["loss_d"] == pytest.approx(told.item(), rel=1e-5)


def test_a_generator_step_descends_its_loss_under_the_discriminator_just_trained():
    parts = {"loss": component("non_saturating"), "optimizer": component("sgd")}
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())

    loss = losses.non_saturating_g(trainer.discriminator(twin.generator(latents(twin)))).mean()
    slopes = torch.autograd.grad(loss, list(twin.generator.parameters()))
    assert_descended(trainer.generator, weights(twin.generator), slopes, lr=1e-2)
    signals = trainer.take_signals()
    assert signals["loss_g"] == pytest.approx(loss.item(), rel=1e-5)
    assert signals["g_gradient"] == pytest.approx(torch.cat([slope.flatten() for slope in slopes]).norm().item())


def test_a_relativistic_generator_step_lifts_each_fake_over_its_own_real():
    parts = {"loss": component("relativistic"), "optimizer": component("sgd")}
    trainer, twin = make(**parts), make(**parts)
    heard = hear(trainer.discriminator)
    trainer.step(source())

    assert len(heard) == 4
    assert torch.equal(heard[3][0][0], heard[0][0][0])  # the generator's step sees the reals again
    r, f = trainer.discriminator(real()).detach(), trainer.discriminator(twin.generator(latents(twin)))
    loss = torch.log(1 + torch.exp(r - f)).mean()
    slopes = torch.autograd.grad(loss, list(twin.generator.parameters()))
    assert_descended(trainer.generator, weights(twin.generator), slopes, lr=1e-2)
    assert trainer.take_signals()["loss_g"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_reals_of_a_relativistic_generator_step_change_its_gradient_and_get_none():
    def stepped(shift):
        trainer = make(loss=component("relativistic"), optimizer=component("sgd"), optimizer_d=named(idle))
        trainer.step(always(real() + shift))
        assert all(weight.grad is None or not weight.requires_grad for weight in trainer.discriminator.parameters())
        return weights(trainer.generator)

    assert equal(stepped(0.0), stepped(0.0))
    assert not equal(stepped(0.0), stepped(2.0))


def test_signals_are_means_over_the_steps_since_they_were_last_taken():
    single, several = make(), make()
    draw_single, draw_several = source(), source()
    taken = []
    for _ in range(3):
        single.step(draw_single)
        several.step(draw_several)
        taken.append(single.take_signals())
    means = several.take_signals()
    for name in SIGNALS:
        assert means[name] == pytest.approx(sum(signals[name] for signals in taken) / 3, rel=1e-5, abs=1e-6)
    assert means["g_gradient"] == taken[-1]["g_gradient"]
    assert all(several.take_signals()[name] == 0 for name in SIGNALS)


def test_taking_signals_does_not_change_the_training():
    watched, left = make(), make()
    draw_watched, draw_left = source(), source()
    for _ in range(3):
        watched.step(draw_watched)
        left.step(draw_left)
        watched.take_signals()
        watched.finite()
    assert equal(weights(watched.generator), weights(left.generator))
    assert equal(weights(watched.discriminator), weights(left.discriminator))


class Brightness(torch.nn.Module):
    """Judges a picture real by how bright it is."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(10.0))

    def forward(self, pictures):
        return self.scale * pictures.flatten(1).mean(1)


def pictures(brightness):
    return torch.tensor(brightness).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)


@pytest.mark.parametrize(
    ("brightness", "accuracy"), [((1.0,) * 4, 1.0), ((-1.0,) * 4, 0.5), ((1.0, 1.0, 1.0, -1.0), 0.875)]
)
def test_accuracy_is_the_share_of_pictures_on_the_right_side_of_zero(brightness, accuracy):
    trainer = make()
    trainer.discriminator = Brightness()
    with torch.no_grad():
        list(trainer.generator.parameters())[-1].fill_(-5.0)  # fakes are dark, so they are found out
    trainer.step(always(pictures(brightness)))
    signals = trainer.take_signals()
    assert signals["d_accuracy"] == accuracy
    assert signals["logit_real"] == pytest.approx(10 * sum(brightness) / 4)
    assert signals["logit_fake"] < -5


@pytest.mark.parametrize("loss", ["wasserstein", "wgan_gp", "relativistic"])
@pytest.mark.parametrize(
    ("brightness", "accuracy"), [((1.0,) * 4, 1.0), ((-2.0,) * 4, 0.0), ((0.5, -0.5, -0.5, -2.0), 0.75)]
)
def test_accuracy_in_a_shift_invariant_game_is_the_share_of_reals_above_their_fakes(loss, brightness, accuracy):
    trainer = make(loss=component(loss))
    trainer.discriminator = Brightness()
    with torch.no_grad():
        list(trainer.generator.parameters())[-1].fill_(-5.0)  # fakes are dark
    trainer.step(always(pictures(brightness)))
    assert trainer.take_signals()["d_accuracy"] == accuracy


@pytest.mark.parametrize("loss", [*LOSSES])
def test_a_shift_of_all_logits_changes_accuracy_only_where_the_game_knows_a_zero(loss):
    def accuracy(shift):
        trainer = make(loss=component(loss), optimizer=named(idle))
        with torch.no_grad():
            list(trainer.discriminator.parameters())[-1].add_(shift)
        for seed in range(4):
            trainer.step(source(seed))
        return trainer.take_signals()["d_accuracy"]

    assert accuracy(100.0) == (accuracy(0.0) if make(loss=component(loss)).game.shift_invariant else 0.5)
    assert 0 < accuracy(0.0) < 1
    assert accuracy(0.0) != 0.5


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_found(network, poison):
    trainer = make()
    trainer.step(source())
    assert trainer.finite()
    last = list(getattr(trainer, network).parameters())[-1]
    with torch.no_grad():
        last.view(-1)[0] = poison
    assert not trainer.finite()


def test_infinities_of_both_signs_do_not_hide_each_other():
    trainer = make()
    first = next(trainer.generator.parameters())
    with torch.no_grad():
        first.view(-1)[0], first.view(-1)[1] = float("inf"), float("-inf")
    assert not trainer.finite()


def test_a_loss_that_was_not_finite_is_found_though_later_ones_are():
    trainer = make(optimizer=component("sgd"))
    for optimizer in optimizers(trainer):
        optimizer.step = lambda: None  # the weights stay whole
    trainer.step(always(torch.full((4, 1, 8, 8), float("nan"))))
    trainer.step(source())
    assert all(torch.isfinite(weight).all() for weight in weights(trainer.discriminator))
    assert not trainer.finite()


def test_a_new_trainer_is_finite_and_has_seen_nothing():
    trainer = make()
    assert trainer.finite()
    assert trainer.samples_seen == 0


def test_training_depends_on_the_seed_and_not_on_the_global_stream_of_randomness():
    def trained(seed):
        trainer = make(seed=seed, loss=component("wgan_gp", d_steps=1), architecture=dcgan(norm_d="spectral"))
        draw = source()
        for _ in range(2):
            trainer.step(draw)
        return trainer.state()

    before = torch.get_rng_state()
    first = trained(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert same_state(first, trained(1))
    assert not equal([first["ema.0.weight"]], [trained(2)["ema.0.weight"]])


def each_step(trainer, optimizer, read):
    """What is read off an optimizer's group at each of its steps."""
    found = []
    take_step = optimizer.step

    def step():
        found.append(read(optimizer.param_groups[0]))
        take_step()

    optimizer.step = step
    return found


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("d_steps", [1, 2])
def test_schedules_are_in_force_at_every_step_of_both_optimizers(optimizer, d_steps):
    trainer = make(
        optimizer=component(optimizer, **({"alpha": 0.9} if optimizer == "rmsprop" else {"beta1": 0.3, "beta2": 0.9})),
        loss=component("hinge", d_steps=d_steps),
        samples=80,
        lr_d_ratio=2.0,
        lr_schedule=component("linear", start=0.5, final=0.1),
        beta_schedule=component("cosine", final=0.2),
    )

    def read(group):
        first, second = group["betas"] if "betas" in group else (None, group["alpha"])
        return group["lr"], first, second

    found_g, found_d = (each_step(trainer, held, read) for held in optimizers(trainer))
    steps = 20 // d_steps
    draw = source()
    for _ in range(steps):
        trainer.step(draw)
    assert trainer.samples_seen == 80
    beta1 = None if optimizer == "rmsprop" else 0.3
    for number in range(steps):
        share = 4 * d_steps * number / 80
        lr = 1e-2 * (1 - 0.9 * max(0.0, share - 0.5) / 0.5)
        beta2 = 1 - 0.1 * (0.2 + 0.8 * (1 + math.cos(math.pi * share)) / 2)
        assert found_g[number] == pytest.approx((lr, beta1, beta2))
        for found in found_d[number * d_steps : (number + 1) * d_steps]:
            assert found == pytest.approx((2 * lr, beta1, beta2))
    assert len(found_d) == steps * d_steps


def test_a_warm_up_raises_the_rates_from_the_first_step_to_its_share_of_the_budget():
    trainer = make(samples=80, lr_warmup=0.25, lr_schedule=component("linear"))
    found_g, found_d = (each_step(trainer, held, lambda group: group["lr"]) for held in optimizers(trainer))
    draw = source()
    for _ in range(10):
        trainer.step(draw)
    expected = [1e-2 * (1 - step / 20) * min(1.0, (step + 1) / 5) for step in range(10)]
    assert found_g == found_d == pytest.approx(expected)
    assert 0 < found_g[0] < found_g[1] < found_g[2]


def test_without_schedules_and_warm_up_the_rates_never_move():
    trainer = make(samples=20)
    found_g, found_d = (each_step(trainer, held, dict) for held in optimizers(trainer))
    draw = source()
    for _ in range(5):
        trainer.step(draw)
    for found in (found_g, found_d):
        assert all(group["lr"] == 1e-2 and group["betas"] == (0.3, 0.9) for group in found)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_no_schedule_ends_in_a_second_moment_that_forgets_nothing(optimizer):
    trainer = make(
        samples=40,
        loss=component("wgan_gp", d_steps=1),  # the bias of the last layer has no gradient, and a moment of 0
        optimizer=component(optimizer),
        beta_schedule=component("cosine", end=0.2, final=0.0),
    )
    found = each_step(
        trainer, trainer.optimizer_d, lambda group: group["betas"][1] if "betas" in group else group["alpha"]
    )
    draw = source()
    for step in range(10):
        trainer.step(draw)
        assert found[step] < 1
    if optimizer != "rmsprop":  # which corrects no bias, so that the steps of young moments are huge
        assert trainer.finite()


@pytest.mark.parametrize("parts", [{"penalty": component("r1")}, {"loss": component("wgan_gp", d_steps=1)}])
def test_the_penalty_schedule_scales_the_penalty_and_nothing_else(parts):
    def signals(**changes):
        trainer = make(optimizer=named(idle), samples=40, **parts, **changes)
        taken = []
        for _ in range(10):
            trainer.mixing.manual_seed(0)
            trainer.noise.manual_seed(0)
            trainer.step(always(real()))
            taken.append(trainer.take_signals())
        return taken

    plain, scaled = signals(), signals(penalty_schedule=component("linear", final=0.1))
    for step, (one, two) in enumerate(zip(plain, scaled, strict=True)):
        assert one["penalty"] > 0
        assert two["penalty"] == pytest.approx(one["penalty"] * (1 - 0.9 * step / 10), rel=1e-5)
        assert two["loss_d"] == pytest.approx(one["loss_d"])


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_lazy_penalty_is_due_at_every_so_many_steps_and_weighs_as_many_times_as_much(every):
    trainer = make(optimizer=named(idle), penalty=component("r1", weight=2.0, every=every))
    eager = make(optimizer=named(idle), penalty=component("r1", weight=2.0))
    for held in (trainer, eager):
        held.penalties = []
        for _ in range(7):
            held.step(always(real()))
            held.penalties.append(held.take_signals()["penalty"])
    value = eager.penalties[0]
    assert value > 0
    assert eager.penalties == pytest.approx([value] * 7)
    assert trainer.penalties == pytest.approx([0.0 if step % every else every * value for step in range(7)])


class Counting(Penalty):
    """Counts its calls, and keeps what it was shown."""

    def __init__(self):
        super().__init__(weight=1.0, every=3)
        self.seen = []

    def forward(self, at):
        self.seen.append(at)
        return 0.0 * at.logits_real


def test_laziness_counts_the_steps_of_the_discriminator():
    trainer = make(penalty=named(Counting), loss=component("hinge", d_steps=2))
    draw = source()
    for calls in (1, 2, 2, 3, 4, 4):  # of the steps 0 1, 2 3, 4 5, 6 7, 8 9, 10 11 those that 3 divides
        trainer.step(draw)
        assert len(trainer.terms["penalty"].seen) == calls


@pytest.mark.parametrize("every", [1, 2, 16])
def test_a_lazy_penalty_corrects_the_discriminators_rates_and_leaves_the_generators(every):
    power = every / (every + 1) if every > 1 else 1.0
    trainer = make(penalty=component("r1", every=every), lr_d_ratio=2.0)
    trainer.step(source())
    (group_g,), (group_d,) = trainer.optimizer_g.param_groups, trainer.optimizer_d.param_groups
    assert group_g["lr"] == 1e-2
    assert group_g["betas"] == (0.3, 0.9)
    assert group_d["lr"] == pytest.approx(2e-2 * power)
    assert group_d["betas"] == pytest.approx((0.3**power, 0.9**power))


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (component("rmsprop", alpha=0.9, momentum=0.5), {"alpha": 0.9**0.8, "momentum": 0.5**0.8}),
        (component("rmsprop", alpha=0.9), {"alpha": 0.9**0.8, "momentum": 0.0}),
        (component("sgd", momentum=0.5), {"momentum": 0.5**0.8}),
        (component("adamw", beta1=0.0, beta2=0.9), {"betas": (0.0, pytest.approx(0.9**0.8))}),
    ],
)
def test_the_decays_of_every_optimizer_are_corrected_for_a_lazy_penalty(optimizer, expected):
    (group,) = make(optimizer=optimizer, penalty=component("r1", every=4)).optimizer_d.param_groups
    assert group["lr"] == pytest.approx(1e-2 * 0.8)
    assert {name: group[name] for name in expected} == expected


def test_the_laziest_of_several_terms_decides_the_correction():
    parts = {"penalty": component("r1", every=2), "regularizer": component("consistency", every=8)}
    (group,) = make(**parts).optimizer_d.param_groups
    assert group["lr"] == pytest.approx(1e-2 * 8 / 9)


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e6])
def test_gradient_clipping_bounds_the_norm_of_each_networks_whole_gradient(clip):
    parts = {"optimizer": component("sgd"), "penalty": component("r1"), "grad_clip": clip}
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())

    def clipped(slopes):
        found = [torch.zeros(()) if slope is None else slope for slope in slopes]
        norm = float(torch.cat([slope.flatten() for slope in found]).norm())
        assert norm > 1e-3
        return [slope * (min(1.0, clip / norm) if clip else 1.0) for slope in found]

    reals, noise = real().requires_grad_(True), latents(twin)
    fakes = twin.generator(noise).detach()
    r = twin.discriminator(reals)
    told = hinge_d(r, twin.discriminator(fakes)).mean() + zero_centred(r, reals).mean()
    changed = weights(trainer.discriminator)
    assert_descended(trainer.discriminator, weights(twin.discriminator), clipped(d_slopes(twin, told)), lr=1e-2)
    loss = -trainer.discriminator(twin.generator(noise)).mean()
    slopes = torch.autograd.grad(loss, list(twin.generator.parameters()))
    assert_descended(trainer.generator, weights(twin.generator), clipped(slopes), lr=1e-2)
    if clip == 1e-3:
        moves = [new - old for new, old in zip(changed, weights(twin.discriminator), strict=True)]
        assert float(torch.cat([move.flatten() for move in moves]).norm()) == pytest.approx(1e-2 * clip, rel=0.01)


class Dimming(Augmentation):
    """Halves every picture, and keeps what it saw, gave and heard."""

    def __init__(self):
        super().__init__()
        self.seen, self.given, self.heard, self.streams = [], [], [], set()

    def forward(self, pictures, generator):
        self.seen.append(pictures)
        self.given.append(0.5 * pictures)
        self.streams.add(id(generator))
        return self.given[-1]

    def observe(self, signs, step):
        self.heard.append((signs, step))


@pytest.mark.parametrize("d_steps", [1, 2])
def test_everything_that_the_discriminator_sees_was_augmented(d_steps):
    trainer = make(loss=component("hinge", d_steps=d_steps), augmentation=named(Dimming), penalty=named(Counting))
    heard = hear(trainer.discriminator)
    trainer.step(source())
    augmentation = trainer.augmentation
    assert len(heard) == len(augmentation.given) == 2 * d_steps + 1  # reals, fakes; the generator's own
    for (given, _), pictures in zip(heard, augmentation.given, strict=True):
        assert torch.equal(given[0], pictures)
    assert torch.equal(augmentation.seen[0], real())
    assert augmentation.streams == {id(trainer.augmenting)}
    at = trainer.terms["penalty"].seen[0]
    assert torch.equal(at.real, augmentation.given[0])
    assert torch.equal(at.fake, augmentation.given[1])


def test_a_relativistic_generator_step_augments_the_reals_too():
    trainer = make(loss=component("relativistic"), augmentation=named(Dimming))
    heard = hear(trainer.discriminator)
    trainer.step(source())
    assert [
        torch.equal(given[0], pictures) for (given, _), pictures in zip(heard, trainer.augmentation.given, strict=True)
    ] == [True] * 4
    assert torch.equal(trainer.augmentation.seen[3], real())


def test_the_generators_gradient_passes_through_the_augmentation():
    parts = {"optimizer": component("sgd"), "augmentation": named(Dimming)}
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())
    loss = -trainer.discriminator(0.5 * twin.generator(latents(twin))).mean()
    slopes = torch.autograd.grad(loss, list(twin.generator.parameters()))
    assert_descended(trainer.generator, weights(twin.generator), slopes, lr=1e-2)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_augmentation_hears_the_signs_of_the_reals_or_of_their_distance_to_the_fakes(loss):
    trainer = make(loss=component(loss, **LOSSES[loss]), augmentation=named(Dimming))
    heard = hear(trainer.discriminator)
    told = []
    observe = trainer.augmentation.observe

    def listen(signs, step):
        told.append([returned.detach() for _, returned in heard[:2]])  # of the reals and of the fakes
        observe(signs, step)
        heard.clear()

    trainer.augmentation.observe = listen
    draw = source()
    for _ in range(3):
        trainer.step(draw)
        heard.clear()
    assert [step for _, step in trainer.augmentation.heard] == list(range(3 * trainer.game.d_steps))
    shifted = loss in ("wasserstein", "wgan_gp", "relativistic")
    for (signs, _), (logits_real, logits_fake) in zip(trainer.augmentation.heard, told, strict=True):
        assert torch.equal(signs, torch.sign(logits_real - logits_fake if shifted else logits_real))
        assert not signs.requires_grad


def test_an_adaptive_augmentation_grows_where_the_discriminator_tells_every_real():
    def probability(brightness):
        trainer = make(augmentation=component("ada", speed_samples=100), optimizer=named(idle))
        trainer.discriminator = Brightness()
        for _ in range(8):
            trainer.step(always(pictures(brightness)))
        return float(trainer.augmentation.probability)

    assert probability((1.0,) * 4) == pytest.approx(32 / 100)
    assert probability((-1.0,) * 4) == 0.0


LABELLED = ImageShape(1, 8, classes=3)


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_both_networks_are_told_the_labels_of_the_batch(loss):
    trainer = make(
        LABELLED,
        architecture=mlp(conditional=True),
        loss=component(loss, **({"d_steps": 2} if loss == "hinge" else {})),
        penalty=component("gradient_penalty"),
    )
    told_g, told_d = hear(trainer.generator), hear(trainer.discriminator)
    batches, draw = [], source(shape=LABELLED)

    def drawn(count):
        batches.append(draw(count))
        return batches[-1]

    trainer.step(drawn)
    last = batches[-1].labels
    paired = [last] if loss == "relativistic" else []
    expected_g = [batch.labels for batch in batches]
    expected_d = [label for batch in batches for label in [batch.labels] * 3] + [last] + paired
    for told, expected in ((told_g, expected_g), (told_d, expected_d)):
        assert [given[1].tolist() for given, _ in told] == [labels.tolist() for labels in expected]


def test_networks_that_are_not_conditional_are_told_no_labels():
    trainer = make(LABELLED)
    told_g, told_d = hear(trainer.generator), hear(trainer.discriminator)
    trainer.step(source(shape=LABELLED))
    assert {len(given) for given, _ in told_g + told_d} == {1}


def test_conditional_training_depends_on_the_labels():
    def trained(labels):
        trainer = make(LABELLED, architecture=mlp(conditional=True))
        trainer.step(always(real(), torch.tensor(labels)))
        return trainer.state()

    assert same_state(trained([0, 1, 2, 0]), trained([0, 1, 2, 0]))
    assert not same_state(trained([0, 1, 2, 0]), trained([2, 1, 0, 0]))


def test_labels_move_the_embeddings_of_the_classes_they_name_and_no_others():
    trainer = make(LABELLED, architecture=mlp(conditional=True), optimizer=component("sgd"))
    (embedding,) = [module for module in trainer.generator.modules() if isinstance(module, torch.nn.Embedding)]
    before = embedding.weight.detach().clone()
    trainer.step(always(real(), torch.tensor([1, 1, 1, 1])))
    moved = (embedding.weight.detach() - before).abs().amax(1) > 0
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("conditional", [False, True])
def test_points_are_trained_too(conditional):
    shape = PointShape(2, classes=3)
    trainer = make(shape, architecture=mlp(conditional=conditional), penalty=component("r1_r2"))
    before = weights(trainer.generator)
    for _ in range(3):
        trainer.step(source(shape=shape))
    assert trainer.finite()
    assert not equal(weights(trainer.generator), before)


HALF = {
    "mlp": mlp(),
    "dcgan": dcgan(norm_d="layer"),
    "spectral dcgan": dcgan(norm_d="spectral"),
    "resnet": component("resnet", width_g=4, width_d=4, depth=1, z_dim=4, spectral_g=True, attention=True),
    "r3gan": component("r3gan", width=4, z_dim=4, group_width=4),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", HALF)
def test_training_in_half_precision_is_finite_and_leaves_weights_and_moments_whole(name, penalty):
    trainer = make(
        architecture=HALF[name],
        penalty=component(penalty),
        regularizer=component("lecam"),
        augmentation=component("diffaugment"),
        precision="bfloat16",
        lr_g=1e-3,
    )
    draw = source()
    for _ in range(2):
        trainer.step(draw)
    assert trainer.finite()
    assert all(value.dtype is torch.float32 for key, value in trainer.state().items() if value.is_floating_point())
    assert all(weight.grad is None or weight.grad.dtype is torch.float32 for weight in trainer.generator.parameters())


def test_half_precision_runs_the_networks_in_bfloat16_and_the_penalty_in_float32():
    trainer = make(precision="bfloat16", penalty=component("gradient_penalty"))
    heard_g, heard_d = hear(trainer.generator), hear(trainer.discriminator)
    trainer.step(source())
    assert [returned.dtype for _, returned in heard_g] == [torch.bfloat16]
    assert [returned.dtype for _, returned in heard_d].count(torch.float32) == 1
    assert [returned.dtype for _, returned in heard_d].count(torch.bfloat16) == 3


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_full_precision_runs_the_networks_in_float32(precision):
    trainer = make(precision=precision)
    heard_g, heard_d = hear(trainer.generator), hear(trainer.discriminator)
    trainer.step(source())
    assert {returned.dtype for _, returned in heard_g + heard_d} == {torch.float32}


def test_half_precision_is_chosen_by_name_and_never_by_itself_on_a_cpu():
    assert half_precision("bfloat16", CPU)
    assert not half_precision("float32", CPU)
    assert not half_precision("auto", CPU)


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize(
    ("penalty", "tolerance"),
    [("r1", 1e-6), ("dragan", 1e-6), ("gradient_penalty", 0.1), ("r1_r2", 0.1)],  # of rounded fakes
)
def test_a_penalty_in_half_precision_is_that_of_float32(name, penalty, tolerance):
    def value(precision):
        trainer = make(architecture=HALF[name], penalty=component(penalty), precision=precision, optimizer=named(idle))
        trainer.step(source())
        return trainer.take_signals()["penalty"]

    assert value("float32") > 0
    assert value("bfloat16") == pytest.approx(value("float32"), rel=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equal_pictures_are_judged_consistently_at_any_precision(precision):
    trainer = make(regularizer=component("consistency", weight=1e6), precision=precision)
    trainer.step(always(torch.zeros(4, 1, 8, 8)))  # a shift brings in zeros
    assert trainer.take_signals()["penalty"] == 0.0


@pytest.mark.parametrize("d_steps", [1, 3])
@pytest.mark.parametrize("penalty", ["none", "gradient_penalty", "r1_r2"])
def test_spectral_norms_move_once_a_step_of_the_discriminator_and_once_a_step_of_the_generator(d_steps, penalty):
    trainer = make(
        architecture=mlp(norm_d="spectral"), penalty=component(penalty), loss=component("hinge", d_steps=d_steps)
    )
    moved = hear(trainer.discriminator[1].parametrizations.weight[0])
    trainer.step(source())
    assert len(moved) == d_steps + 1


def a_loss_that_is_no_game():
    return losses.hinge_d, losses.negated_g


def test_a_loss_that_returns_something_else_than_a_game_is_a_plugin_error():
    with pytest.raises(PluginError, match="a_loss_that_is_no_game"):
        make(loss=component(f"{__name__}:a_loss_that_is_no_game"))


KINDS = {
    "loss": "hinge",
    "penalty": "r1",
    "regularizer": "lecam",
    "augmentation": "ada",
    "optimizer": "adam",
    "optimizer_d": "sgd",
    "lr_schedule": "linear",
    "beta_schedule": "cosine",
    "penalty_schedule": "linear",
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_an_option_that_a_component_does_not_have_is_a_plugin_error_that_names_it(kind):
    with pytest.raises(PluginError, match=f"`{KINDS[kind]}`.*nonsense"):
        make(**{kind: component(KINDS[kind], nonsense=1.0)})


def a_number():
    return 3


def a_module():
    return torch.nn.Linear(1, 1)


@each_kind
def test_a_component_that_returns_something_else_is_a_plugin_error_that_names_it_and_what_is_wanted(kind):
    wanted = {"loss": "Game", "penalty": "Penalty", "regularizer": "Penalty", "augmentation": "Augmentation"}
    with pytest.raises(PluginError, match=f":a_number`.*must return a .*{wanted.get(kind, 'Callable')}.*, got int"):
        make(**{kind: named(a_number)})


@pytest.mark.parametrize("kind", ["loss", "penalty", "regularizer", "augmentation"])
def test_a_module_is_no_penalty_and_no_augmentation(kind):
    with pytest.raises(PluginError, match=r":a_module`.*got Linear"):
        make(**{kind: named(a_module)})


def an_optimizer_that_is_none():
    return lambda parameters, lr: None


def a_schedule_that_is_no_number():
    return lambda share: None


@pytest.mark.parametrize("kind", ["optimizer", "optimizer_d"])
def test_a_constructor_of_something_else_than_an_optimizer_is_a_plugin_error_that_names_it(kind):
    with pytest.raises(PluginError, match=r":an_optimizer_that_is_none`.*got NoneType"):
        make(**{kind: named(an_optimizer_that_is_none)})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("schedule")])
def test_a_schedule_that_gives_no_number_is_a_plugin_error_that_names_it(kind):
    with pytest.raises(PluginError, match=r":a_schedule_that_is_no_number`.*got NoneType"):
        make(**{kind: named(a_schedule_that_is_no_number)}).step(source())


CRASH = {"error": ValueError}


def a_component_that_crashes():
    raise CRASH["error"]("of all things")


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, AttributeError, ZeroDivisionError, OSError])
@each_kind
def test_a_component_that_crashes_is_a_plugin_error_that_names_it_and_the_reason(monkeypatch, kind, error):
    monkeypatch.setitem(CRASH, "error", error)
    with pytest.raises(PluginError, match=r":a_component_that_crashes`.*of all things"):
        make(**{kind: named(a_component_that_crashes)})


def test_the_cpu_can_always_be_chosen():
    assert choose_device("cpu") == CPU


def test_a_gpu_that_is_not_there_is_an_error_with_the_remedy_and_never_chosen_by_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(GantuneError, match="use cpu"):
        choose_device("cuda")
