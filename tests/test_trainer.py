import copy

import pytest
import torch

from gantune import losses
from gantune.config import (
    CollapseConfig,
    Component,
    DataConfig,
    ObjectiveConfig,
    TrialConfig,
)
from gantune.errors import CheckpointError, GantuneError, PluginError
from gantune.losses import hinge_d
from gantune.models.networks import ImageShape
from gantune.penalties import gradient_penalty, zero_centred
from gantune.trainer import EMA_RAMP, SIGNALS, GANTrainer, choose_device

SHAPE = ImageShape(1, 8)
CPU = torch.device("cpu")
LOSSES = {
    "minimax": {},
    "non_saturating": {"r1": 0.1},
    "least_squares": {"d_steps": 2},
    "hinge": {"gp_weight": 0.5, "r1": 0.1},
    "wasserstein": {"clip": 0.05, "d_steps": 2},
    "wgan_gp": {"gp_weight": 10.0, "d_steps": 2},
}
OPTIMIZERS = {
    "adam": {"beta1": 0.5},
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


def source(seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.rand(count, 1, size, size, generator=generator) * 2 - 1


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


def test_nesterov_without_momentum_is_plain():
    for optimizer in optimizers(make(optimizer=component("sgd", momentum=0.0, nesterov=True))):
        assert not optimizer.param_groups[0]["nesterov"]


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
    before = weights(trainer.generator)
    trainer.optimizer_g.param_groups[0]["lr"] = 0.0
    trainer.step(source(1))
    assert equal(weights(trainer.generator), before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_trainer_restored_from_its_state_goes_on_bit_for_bit(loss, optimizer):
    parts = {
        "loss": component(loss, **LOSSES[loss]),
        "optimizer": component(optimizer.split()[-1], **OPTIMIZERS[optimizer]),
    }
    straight, first, second = (make(**parts) for _ in range(3))
    draw_straight, draw_again = source(), source()
    for _ in range(2):
        straight.step(draw_straight)
        first.step(draw_again)
    second.load_state(first.state())
    assert same_state(first.state(), second.state())
    for _ in range(3):
        straight.step(draw_straight)
        second.step(draw_again)
    assert same_state(straight.state(), second.state())
    assert straight.take_signals() == second.take_signals()


@pytest.mark.parametrize("norm_d", ["batch", "layer", "spectral"])
def test_a_restored_dcgan_goes_on_bit_for_bit_with_the_state_of_its_normalisation(norm_d):
    straight, first, second = (make(architecture=dcgan(norm_d=norm_d), shape=ImageShape(1, 16)) for _ in range(3))
    draw_straight, draw_again = source(size=16), source(size=16)
    for _ in range(2):
        straight.step(draw_straight)
        first.step(draw_again)
    second.load_state(first.state())
    for _ in range(2):
        straight.step(draw_straight)
        second.step(draw_again)
    assert same_state(straight.state(), second.state())


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


@pytest.mark.parametrize("missing", ["rng.noise", "rng.mixing", "sums", "counters"])
def test_a_state_that_lacks_a_part_is_a_checkpoint_error(missing):
    trainer = make()
    state = trainer.state()
    del state[missing]
    with pytest.raises(CheckpointError, match="does not fit"):
        trainer.load_state(state)


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


@pytest.mark.parametrize(("r1", "real"), [(0.0, False), (1.0, True)])
def test_only_the_generator_step_reaches_the_generator_through_the_fakes(r1, real):
    trainer = make(loss=component("hinge", r1=r1))
    reached = []
    trainer.discriminator.register_forward_pre_hook(lambda module, args: reached.append(args[0].requires_grad))
    trainer.step(source())
    assert reached == [real, False, True]


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
    trainer = make()
    networks = {"g": trainer.generator, "d": trainer.discriminator}
    dict(zip("gd", optimizers(trainer), strict=True))[frozen].param_groups[0]["lr"] = 0.0
    before = {name: weights(network) for name, network in networks.items()}
    trainer.step(source())
    assert equal(weights(networks[frozen]), before[frozen])
    assert not equal(weights(networks[moving]), before[moving])


@pytest.mark.parametrize("r1", [0.0, 2.0])
@pytest.mark.parametrize("gp_weight", [0.0, 3.0])
def test_a_discriminator_step_descends_its_loss_plus_the_weighted_penalties_in_one_step(gp_weight, r1):
    parts = {
        "loss": component("hinge", gp_weight=gp_weight, r1=r1),
        "optimizer": component("sgd"),
        "lr_d_ratio": 5.0,
    }
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())

    real = source()(4).requires_grad_(True)
    fake = twin.generator(torch.randn(4, twin.z_dim, generator=twin.noise)).detach()
    logits = twin.discriminator(real)
    penalty = gp_weight * gradient_penalty(twin.discriminator, real, fake, twin.mixing).mean()
    penalty = penalty + r1 * zero_centred(logits, real).mean()
    loss = hinge_d(logits, twin.discriminator(fake)).mean()
    slopes = torch.autograd.grad(loss + penalty, list(twin.discriminator.parameters()), allow_unused=True)
    for weight, start, slope in zip(weights(trainer.discriminator), weights(twin.discriminator), slopes, strict=True):
        torch.testing.assert_close(weight, start - 5e-2 * (0 if slope is None else slope), rtol=1e-5, atol=1e-7)
    signals = trainer.take_signals()
    assert signals["loss_d"] == pytest.approx(loss.item(), rel=1e-5)
    assert signals["penalty"] == pytest.approx(penalty.item(), rel=1e-5)


def test_a_generator_step_descends_its_loss_under_the_discriminator_just_trained():
    parts = {"loss": component("non_saturating"), "optimizer": component("sgd")}
    trainer, twin = make(**parts), make(**parts)
    trainer.step(source())

    torch.randn(4, twin.z_dim, generator=twin.noise)  # the latents of the discriminator's step
    latents = torch.randn(4, twin.z_dim, generator=twin.noise)
    loss = losses.non_saturating_g(trainer.discriminator(twin.generator(latents))).mean()
    slopes = torch.autograd.grad(loss, list(twin.generator.parameters()))
    for weight, start, slope in zip(weights(trainer.generator), weights(twin.generator), slopes, strict=True):
        torch.testing.assert_close(weight, start - 1e-2 * slope, rtol=1e-5, atol=1e-7)
    signals = trainer.take_signals()
    assert signals["loss_g"] == pytest.approx(loss.item(), rel=1e-5)
    assert signals["g_gradient"] == pytest.approx(torch.cat([slope.flatten() for slope in slopes]).norm().item())


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


@pytest.mark.parametrize(
    ("brightness", "accuracy"), [((1.0,) * 4, 1.0), ((-1.0,) * 4, 0.5), ((1.0, 1.0, 1.0, -1.0), 0.875)]
)
def test_accuracy_is_the_share_of_pictures_on_the_right_side_of_zero(brightness, accuracy):
    trainer = make()
    trainer.discriminator = Brightness()
    with torch.no_grad():
        list(trainer.generator.parameters())[-1].fill_(-5.0)  # fakes are dark, so they are found out
    trainer.step(lambda count: torch.tensor(brightness).reshape(count, 1, 1, 1).expand(count, 1, 8, 8).clone())
    signals = trainer.take_signals()
    assert signals["d_accuracy"] == accuracy
    assert signals["logit_real"] == pytest.approx(10 * sum(brightness) / 4)
    assert signals["logit_fake"] < -5


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
    trainer.step(lambda count: torch.full((count, 1, 8, 8), float("nan")))
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


def a_loss_that_is_no_game():
    return losses.hinge_d, losses.negated_g


def test_a_loss_that_returns_something_else_than_a_game_is_a_plugin_error():
    with pytest.raises(PluginError, match="a_loss_that_is_no_game"):
        make(loss=component(f"{__name__}:a_loss_that_is_no_game"))


@pytest.mark.parametrize("kind", ["loss", "optimizer", "optimizer_d"])
def test_an_option_that_a_loss_or_an_optimizer_does_not_have_is_a_plugin_error_that_names_it(kind):
    name = "hinge" if kind == "loss" else "adam"
    with pytest.raises(PluginError, match="nonsense"):
        make(**{kind: component(name, nonsense=1.0)})


def test_the_cpu_can_always_be_chosen():
    assert choose_device("cpu") == CPU


def test_a_gpu_that_is_not_there_is_an_error_with_the_remedy_and_never_chosen_by_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(GantuneError, match="use cpu"):
        choose_device("cuda")
