from dataclasses import replace

import pytest
import torch

from gantune import plugins
from gantune.audit import noise
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.compatibility import conflict
from gantune.config import CollapseConfig, Component, DataConfig, ObjectiveConfig, TrialConfig
from gantune.errors import CheckpointError
from gantune.models.networks import ImageShape, PointShape
from gantune.trainer import GANTrainer

CPU = torch.device("cpu")
SHAPE = ImageShape(1, 8, classes=3)
STEPS = 3


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


TINY = {
    "mlp": {"hidden": 8, "depth": 1, "z_dim": 4},
    "dcgan": {"width": 4, "z_dim": 4, "norm_d": "layer"},
    "resnet": {"width_g": 4, "width_d": 4, "depth": 1, "z_dim": 4},
    "r3gan": {"width": 4, "z_dim": 4, "group_width": 4},
}
GAMES = {
    "minimax": {"loss": component("minimax")},
    "non_saturating": {"loss": component("non_saturating", label_smoothing=0.1)},
    "least_squares": {"loss": component("least_squares")},
    "hinge": {"loss": component("hinge")},
    "wasserstein": {"loss": component("wasserstein", d_steps=2), "penalty": component("gradient_penalty")},
    "wgan_gp": {"loss": component("wgan_gp", d_steps=2)},
    "relativistic": {"loss": component("relativistic"), "penalty": component("r1_r2", every=2)},
}
OPTIMIZERS = {
    "adam": component("adam", beta1=0.3, beta2=0.9),
    "adamw": component("adamw", weight_decay=0.1),
    "rmsprop": component("rmsprop", alpha=0.9, momentum=0.5),
    "sgd": component("sgd", momentum=0.9, nesterov=True),
}


def tiny(name, **options):
    return component(name, **{**TINY[name], **options})


def configure(**changes):
    values = {
        "data": DataConfig(),
        "objective": ObjectiveConfig(),
        "collapse": CollapseConfig(),
        "samples": 60,
        "target": None,
        "seed": 0,
        "architecture": tiny("mlp"),
        "loss": component("hinge"),
        "optimizer": OPTIMIZERS["adam"],
        "lr_g": 1e-3,
        "batch_size": 4,
    }
    return TrialConfig(**{**values, **changes})


def train(trainer, seed):
    draw = noise(trainer.shape, seed)
    for _ in range(STEPS):
        trainer.step(draw)


def trained(shape=SHAPE, **changes):
    config = configure(**changes)
    assert conflict(config) is None
    trainer = GANTrainer(config, shape, CPU)
    if config.augmentation.name == "ada":
        trainer.augmentation.probability.fill_(0.5)  # as it is in the middle of a training
    train(trainer, seed=0)
    return trainer


def through_a_file(state, folder):
    path = folder / "latest.safetensors"
    write_checkpoint(path, "trial", state, {})
    return read_checkpoint(path, "trial")[0]


def restored(state, trainer, **changes):
    """A trainer that started from other weights and streams than the one whose state it loads."""
    config = replace(trainer.config, **{"seed": trainer.config.seed + 1, **changes})
    fresh = GANTrainer(config, trainer.shape, CPU)
    fresh.load_state(state)
    return fresh


def differing(one, two):
    """The names of the tensors that are not equal bit for bit, or that one side lacks."""
    return sorted(
        name
        for name in one.keys() | two.keys()
        if name not in one
        or name not in two
        or one[name].dtype != two[name].dtype
        or not torch.equal(one[name], two[name])
    )


def assert_resumes(folder, shape=SHAPE, **changes):
    straight = trained(shape, **changes)
    resumed = restored(through_a_file(straight.state(), folder), straight)
    assert differing(straight.state(), resumed.state()) == []
    start = straight.state()
    for trainer in (straight, resumed):
        train(trainer, seed=1)
    assert straight.finite()
    assert {name.split(".")[0] for name in differing(start, straight.state())} >= {"g", "d", "ema", "rng", "counters"}
    assert differing(straight.state(), resumed.state()) == []
    assert straight.take_signals() == resumed.take_signals()


def test_the_product_covers_every_architecture_loss_and_optimizer_there_is():
    for kind, covered in (("architecture", TINY), ("loss", GAMES), ("optimizer", OPTIMIZERS)):
        assert set(covered) == set(plugins.BUILTIN[kind])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("architecture", TINY)
def test_a_restored_trainer_goes_on_bit_for_bit(tmp_path, architecture, game, optimizer):
    assert_resumes(tmp_path, architecture=tiny(architecture), optimizer=OPTIMIZERS[optimizer], **GAMES[game])


PENALTIES = {
    name: {"penalty": component(name, every=2), "architecture": tiny("dcgan")}
    for name in plugins.BUILTIN["penalty"]
    if name != "none"
}
REGULARIZERS = {
    "lecam": {"regularizer": component("lecam", decay=0.9)},
    "consistency": {"regularizer": component("consistency", every=2, mirror=True)},
}
AUGMENTATIONS = {
    "diffaugment": {"augmentation": component("diffaugment")},
    "ada": {"augmentation": component("ada", speed_samples=100)},
}
SCHEDULES = {
    "linear lr": {"lr_schedule": component("linear", start=0.1)},
    "cosine lr": {"lr_schedule": component("cosine", final=0.1)},
    "lr with a warm-up": {"lr_schedule": component("linear"), "lr_warmup": 0.5},
    "linear beta": {"beta_schedule": component("linear", final=0.1)},
    "cosine penalty": {"penalty_schedule": component("cosine"), "penalty": component("r1")},
}
NORMS = {
    "spectral mlp": {"architecture": tiny("mlp", norm_d="spectral")},
    "spectral dcgan": {"architecture": tiny("dcgan", norm_d="spectral")},
    "spectral on both sides": {"architecture": tiny("resnet", spectral_g=True)},
    "batch norm on both sides": {"architecture": tiny("dcgan", norm_d="batch")},
    "batch norm in a resnet": {"architecture": tiny("resnet", norm_d="batch")},
    "no batch norm": {"architecture": tiny("dcgan", norm_g="layer", norm_d="instance")},
    "attention": {"architecture": tiny("resnet", attention=True)},
}
CONDITIONAL = {
    "conditional mlp": {"architecture": tiny("mlp", conditional=True)},
    "conditional dcgan": {"architecture": tiny("dcgan", conditional=True)},
    "conditional resnet": {"architecture": tiny("resnet", conditional=True)},
    "conditional resnet without norms": {
        "architecture": tiny("resnet", conditional=True, norm_g="none", norm_d="none"),
        "penalty": component("gradient_penalty"),
    },
    "conditional r3gan": {"architecture": tiny("r3gan", conditional=True), **GAMES["relativistic"]},
}
STEPPING = {
    "two steps of the discriminator": {"loss": component("hinge", d_steps=2), "penalty": component("r1", every=3)},
    "clipped gradients": {"grad_clip": 0.05},
    "clipped weights": {"loss": component("wasserstein", clip=0.05)},
    "an optimizer for each": {"optimizer_d": OPTIMIZERS["rmsprop"]},
    "no average": {"ema_halflife_samples": 0},
    "bfloat16": {"precision": "bfloat16", "penalty": component("r1_r2", every=2)},
    "bfloat16 under spectral norm": {"precision": "bfloat16", "architecture": tiny("resnet", attention=True)},
}
ALONE = {**PENALTIES, **REGULARIZERS, **AUGMENTATIONS, **SCHEDULES, **NORMS, **CONDITIONAL, **STEPPING}


def test_every_penalty_regularizer_augmentation_and_schedule_there_is_has_its_turn():
    for kind in ("penalty", "regularizer", "augmentation", "schedule"):
        named = {
            component.name for changes in ALONE.values() for component in changes.values() if hasattr(component, "name")
        }
        assert set(plugins.BUILTIN[kind]) - {"none", "constant"} <= named


@pytest.mark.parametrize("change", ALONE)
def test_a_trainer_restored_with_one_part_changed_goes_on_bit_for_bit(tmp_path, change):
    assert_resumes(tmp_path, **ALONE[change])


def test_a_restored_trainer_of_points_goes_on_bit_for_bit(tmp_path):
    assert_resumes(
        tmp_path,
        PointShape(2, classes=3),
        architecture=tiny("mlp", conditional=True),
        data=DataConfig(dataset="gaussians8"),
    )


EVERYTHING = {
    "architecture": tiny("dcgan", norm_d="spectral"),
    "loss": component("hinge", d_steps=2),
    "penalty": component("gradient_penalty", every=3),
    "regularizer": component("lecam", decay=0.9),
    "augmentation": component("ada", speed_samples=100),
    "lr_schedule": component("linear"),
}
PARTS = (
    "g", "d", "ema", "opt_g", "opt_d", "term_regularizer", "augmentation",
    "rng.noise", "rng.mixing", "rng.augmenting", "sums", "counters",
)  # fmt: skip


def belongs(name, part):
    return name == part or name.startswith(f"{part}.")


def test_the_parts_are_the_whole_state():
    assert all(any(belongs(name, part) for part in PARTS) for name in trained(**EVERYTHING).state())


@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_the_state_can_be_forgotten_unseen(part):
    straight = trained(**EVERYTHING)
    state = straight.state()
    untrained = GANTrainer(straight.config, SHAPE, CPU).state()
    forgetful = {name: value for name, value in state.items() if not belongs(name, part)}
    forgetful |= {name: value for name, value in untrained.items() if belongs(name, part)}
    assert differing(state, forgetful)
    resumed = restored(forgetful, straight)
    for trainer in (straight, resumed):
        train(trainer, seed=1)
    assert differing(straight.state(), resumed.state())


@pytest.mark.parametrize("buffer", ["g.2.running_mean", "d.2.parametrizations.weight.0._v"])
def test_no_buffer_of_a_normalisation_can_be_forgotten_unseen(buffer):
    straight = trained(**EVERYTHING)
    state = straight.state()
    resumed = restored({**state, buffer: torch.ones_like(state[buffer])}, straight)
    for trainer in (straight, resumed):
        train(trainer, seed=1)
    assert differing(straight.state(), resumed.state())


@pytest.mark.parametrize("part", [part for part in PARTS if not part.startswith("opt")])
def test_a_state_that_lacks_a_part_is_a_checkpoint_error(part):
    trainer = trained(**EVERYTHING)
    kept = {name: value for name, value in trainer.state().items() if not belongs(name, part)}
    with pytest.raises(CheckpointError, match="does not fit"):
        trainer.load_state(kept)


TAMPERED = {"lr": 7.0, "betas": (0.77, 0.88), "alpha": 0.77, "momentum": 0.66, "weight_decay": 0.55}


def groups(trainer):
    return trainer.optimizer_g.param_groups + trainer.optimizer_d.param_groups


def in_force(trainer):
    return [{name: group[name] for name in TAMPERED if name in group} for group in groups(trainer)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rates_that_were_changed_before_saving_are_not_in_force_after_loading(tmp_path, optimizer):
    straight = trained(optimizer=OPTIMIZERS[optimizer])
    state, due = straight.state(), in_force(straight)
    for group in groups(straight):
        group.update({name: value for name, value in TAMPERED.items() if name in group})
    planted = {f"{prefix}.0.lr": torch.tensor(7.0) for prefix in ("opt_g", "opt_d")}
    loaded = restored(through_a_file({**straight.state(), **planted}, tmp_path), straight)
    assert in_force(loaded) == due
    other = restored(state, straight)
    for trainer in (loaded, other):
        train(trainer, seed=1)
    assert in_force(loaded) == due
    assert set(differing(loaded.state(), other.state())) <= set(planted)


OTHERS = {
    "adam": (component("adam", beta1=0.1, beta2=0.95), {"betas": (0.1, 0.95)}),
    "adamw": (component("adamw", beta1=0.2, beta2=0.96, weight_decay=0.3), {"betas": (0.2, 0.96), "weight_decay": 0.3}),
    "rmsprop": (component("rmsprop", alpha=0.7, momentum=0.2), {"alpha": 0.7, "momentum": 0.2}),
    "sgd": (component("sgd", momentum=0.4), {"momentum": 0.4, "nesterov": False}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trainer_of_other_options_keeps_its_own_when_it_loads_a_state(optimizer):
    straight = trained(optimizer=OPTIMIZERS[optimizer])
    own, expected = OTHERS[optimizer]
    loaded = restored(straight.state(), straight, optimizer=own, lr_g=3e-3, lr_d_ratio=2.0)

    for _ in range(2):
        assert [group["lr"] for group in groups(loaded)] == [3e-3, 6e-3]
        for group in groups(loaded):
            assert {name: group[name] for name in expected} == expected
        train(loaded, seed=1)


def test_a_lazier_penalty_corrects_the_rates_of_a_state_that_was_saved_without_it():
    straight = trained(penalty=component("r1"))
    loaded = restored(straight.state(), straight, penalty=component("r1", every=4))
    (group,) = loaded.optimizer_d.param_groups
    assert group["lr"] == pytest.approx(1e-3 * 4 / 5)
    assert group["betas"] == pytest.approx((0.3 ** (4 / 5), 0.9 ** (4 / 5)))


def test_a_schedule_goes_on_from_where_the_state_was_saved():
    straight = trained(lr_schedule=component("linear"), samples=60)
    loaded = restored(straight.state(), straight)
    seen = 4 * STEPS
    assert loaded.factors() == straight.factors() == {"lr": pytest.approx(1 - seen / 60), "beta": 1.0, "penalty": 1.0}
    for _ in range(2):
        assert [group["lr"] for group in groups(loaded)] == pytest.approx([1e-3 * (1 - seen / 60)] * 2)
        loaded.step(noise(SHAPE, 1))  # which is taken by the rates of its start


def test_a_loaded_state_belongs_to_the_file_and_not_to_the_trainer():
    straight = trained(**EVERYTHING)
    state = straight.state()
    kept = {name: value.clone() for name, value in state.items()}
    loaded = restored(state, straight)
    train(loaded, seed=1)
    assert differing(state, kept) == []
