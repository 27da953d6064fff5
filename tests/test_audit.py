import io
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
import ray
import torch
from torch import nn, optim

from gantune import plugins
from gantune.audit import audit_space, check_in_force
from gantune.compatibility import conflict
from gantune.config import (
    Bounds,
    CollapseConfig,
    Component,
    DataConfig,
    ObjectiveConfig,
    TrialConfig,
)
from gantune.data.data_set import Batch
from gantune.domains import Branch, Choice
from gantune.driver.screen import Screen
from gantune.driver.search import search
from gantune.errors import AuditError, PluginError
from gantune.losses import Game, hinge_d, negated_g
from gantune.models.mlp import mlp
from gantune.models.networks import ImageShape, Networks, PointShape
from gantune.penalties import Penalty, zero_centred
from gantune.run import Run
from gantune.space import load_space
from gantune.trainer import GANTrainer

CPU = torch.device("cpu")
POINTS = PointShape(2, 8)
FILES = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yaml"))
SHAPES = {"mnist": ImageShape(1, 28, 10), "cifar10": ImageShape(3, 32, 10), "gaussians8": POINTS}
WIDTHS = ("width", "width_g", "width_d")
Number = Annotated[float, Bounds(low=0)]


# Components of a user's own, most with a planted fault; a space calls them test_audit:NAME


def small(shape, *, hidden: int = 8, ignored: Number = 1.0):
    return mlp(shape, hidden=hidden, depth=1, z_dim=2)


def dropping(shape, *, ignored: Number = 1.0):
    """Draws from torch's own stream, so that no two runs of it are alike unless they start alike."""
    networks = mlp(shape, hidden=8, depth=1, z_dim=2)
    return Networks(networks.generator, nn.Sequential(nn.Dropout(0.5), networks.discriminator), networks.z_dim)


def unbuildable(shape, *, hidden: int = 8):
    raise ValueError("no such shape")


def deaf_loss(*, margin: Number = 1.0, ignored: Number = 1.0):
    return Game(d_loss=lambda real, fake: hinge_d(real / (1 + margin), fake), g_loss=negated_g)


def broken_loss(*, ignored: Number = 1.0):
    return Game(d_loss=lambda real, fake: (real - fake) * float("nan"), g_loss=negated_g)


class DeafPenalty(Penalty):
    slopes_of = frozenset(["real"])

    def __init__(self, *, weight: Number = 1.0) -> None:
        super().__init__(weight=1.0)

    def forward(self, at):
        return zero_centred(at.logits_real, at.real)


def deaf_to_lr(*, beta1: Number = 0.5):
    return lambda parameters, lr: optim.Adam(parameters, lr=1e-3, betas=(beta1, 0.9))


def deaf_to_beta1(*, beta1: Number = 0.5, beta2: Number = 0.9):
    return lambda parameters, lr: optim.Adam(parameters, lr=lr, betas=(0.5, beta2))


def adam_that_may_keep_a_maximum(*, amsgrad: bool = False):
    return lambda parameters, lr: optim.Adam(parameters, lr=lr, betas=(0.5, 0.9), amsgrad=amsgrad)


def deaf_schedule(*, final: Number = 0.0):
    return lambda share: 1.0 - 0.5 * share


def late_schedule(*, final: Number = 0.0):
    return lambda share: 1.0 if share < 0.9 else final


SOUND = {
    "architecture": "{mlp: {hidden: 8, depth: 1, z_dim: 2}}",
    "loss": "hinge",
    "optimizer": "adam",
    "lr_g": "1e-3",
}


@pytest.fixture
def planted(tmp_path):
    """A space on points of the parameters given, the rest sound and constant."""

    def write(rules="[]", **parameters):
        path = tmp_path / "planted.yaml"
        space = "".join(f"  {name}: {text}\n" for name, text in {**SOUND, **parameters}.items())
        path.write_text(
            f"version: 1\nname: planted\ndata: {{dataset: gaussians8}}\nspace:\n{space}rules: {rules}\n",
            encoding="utf-8",
        )
        return load_space(path)

    return write


def complaints(space, shape=POINTS):
    """What an audit complains of: the reason by full path."""
    with pytest.raises(AuditError) as caught:
        audit_space(space, shape)
    head, *lines, remedy = str(caught.value).splitlines()
    assert head == f"{space.name}: parameters without effect:"
    assert remedy.startswith("Take them out of the space, or mend the component")
    assert remedy.endswith("Nothing was started.")
    return dict(line.removeprefix("  ").rsplit(": ", 1) for line in lines)


def narrowed(space):
    """The same space with every width of a picture's networks a quarter: what has an effect has it at any width."""

    def narrow(block):
        widths = {
            name: domain.values for name, domain in block.items() if name in WIDTHS and isinstance(domain, Choice)
        }
        return {**block, **{name: Choice(tuple(value // 4 for value in values)) for name, values in widths.items()}}

    parameters = {
        path: Branch({name: narrow(block) for name, block in domain.options.items()})
        for path, domain in space.parameters.items()
        if isinstance(domain, Branch)
    }
    baseline = {
        path: value // 4 if path.rpartition(".")[2] in WIDTHS else value for path, value in space.baseline.items()
    }
    return replace(space, parameters={**space.parameters, **parameters}, baseline=baseline)


# A space


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_parameter_of_a_shipped_space_has_an_effect(file):
    space = load_space(file)
    shape = SHAPES.get(space.data.dataset) or ImageShape(1, space.data.size, 10)
    numbers = {path for path, domain in space.searched().items() if not isinstance(domain, Branch)}
    assert numbers <= set(audit_space(narrowed(space), shape))


@pytest.mark.parametrize(
    ("parameter", "text", "dead"),
    [
        ("architecture", "{'test_audit:small': {ignored: [1, 2]}}", "architecture.test_audit:small.ignored"),
        ("loss", "{'test_audit:deaf_loss': {ignored: 0..9}}", "loss.test_audit:deaf_loss.ignored"),
        ("penalty", "{'test_audit:DeafPenalty': {weight: log 0.1..10}}", "penalty.test_audit:DeafPenalty.weight"),
        ("optimizer", "{'test_audit:deaf_to_beta1': {beta1: 0..0.9}}", "optimizer.test_audit:deaf_to_beta1.beta1"),
        (
            "lr_schedule",
            "{'test_audit:deaf_schedule': {final: [0, 0.5]}}",
            "lr_schedule.test_audit:deaf_schedule.final",
        ),
    ],
)
def test_option_that_its_component_ignores_is_named_by_its_full_path(planted, parameter, text, dead):
    assert complaints(planted(**{parameter: text})) == {dead: "changes nothing"}


def test_rates_that_an_optimizer_ignores_are_named(planted):
    space = planted(optimizer="'test_audit:deaf_to_lr'", lr_g="log 1e-4..1e-2", lr_d_ratio="[1, 2]")
    assert complaints(space) == {"lr_g": "changes nothing", "lr_d_ratio": "changes nothing"}


def test_all_dead_parameters_are_named_at_once_and_no_living_one(planted):
    space = planted(
        architecture="{'test_audit:small': {hidden: [8, 16], ignored: [1, 2]}}",
        loss="{'test_audit:deaf_loss': {margin: [0, 1], ignored: [1, 2]}}",
        optimizer="{'test_audit:deaf_to_beta1': {beta1: [0, 0.5], beta2: [0.9, 0.99]}}",
        batch_size="[32, 64]",
    )
    assert set(complaints(space)) == {
        "architecture.test_audit:small.ignored",
        "loss.test_audit:deaf_loss.ignored",
        "optimizer.test_audit:deaf_to_beta1.beta1",
    }


def test_option_that_is_fixed_off_its_default_and_ignored_is_named_too(planted):
    assert set(complaints(planted(loss="{'test_audit:deaf_loss': {ignored: 7}}"))) == {
        "loss.test_audit:deaf_loss.ignored"
    }


def test_option_inside_a_branch_is_named_with_its_branch(planted):
    space = planted(loss="{choose: {hinge: {}, 'test_audit:deaf_loss': {margin: [0, 1], ignored: [1, 2]}}}")
    assert set(complaints(space)) == {"loss.test_audit:deaf_loss.ignored"}


def test_option_is_found_dead_although_its_network_draws_noise_of_its_own(planted):
    space = planted(architecture="{'test_audit:dropping': {ignored: [1, 2]}}")
    assert set(complaints(space)) == {"architecture.test_audit:dropping.ignored"}


def test_option_is_found_dead_although_its_steps_are_not_finite(planted):
    assert set(complaints(planted(loss="{'test_audit:broken_loss': {ignored: [1, 2]}}"))) == {
        "loss.test_audit:broken_loss.ignored"
    }


def test_dead_option_of_a_component_inside_a_package_is_named_by_its_dotted_path(planted, tmp_path, monkeypatch):
    (tmp_path / "audited_package").mkdir()
    (tmp_path / "audited_package" / "losses.py").write_text(
        "from gantune.losses import hinge\ndef critic(*, k: float = 1.0): return hinge()\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    space = planted(loss="{'audited_package.losses:critic': {k: [1, 2]}}")
    assert set(complaints(space)) == {"loss.audited_package.losses:critic.k"}


@pytest.mark.parametrize(
    ("parameter", "text", "alive"),
    [
        ("loss", "{'test_audit:deaf_loss': {margin: [0, 1]}}", "loss.test_audit:deaf_loss.margin"),
        ("loss", "{non_saturating: {label_smoothing: [0, 0.1]}}", "loss.non_saturating.label_smoothing"),
        ("lr_warmup", "[0, 0.1]", "lr_warmup"),
        ("ema_halflife_samples", "[100, 200]", "ema_halflife_samples"),
    ],
)
def test_option_whose_effect_only_a_step_shows_passes(planted, parameter, text, alive):
    assert alive in audit_space(planted(**{parameter: text}), POINTS)


def test_option_that_acts_late_in_the_budget_passes(planted):
    space = planted(lr_schedule="{'test_audit:late_schedule': {final: [0, 0.5]}}")
    assert "lr_schedule.test_audit:late_schedule.final" in audit_space(space, POINTS)


@pytest.mark.parametrize("choices", ["[true, false]", "[false, true]"])
def test_option_that_changes_what_an_optimizer_remembers_passes(planted, choices):
    space = planted(optimizer=f"{{'test_audit:adam_that_may_keep_a_maximum': {{amsgrad: {choices}}}}}")
    assert "optimizer.test_audit:adam_that_may_keep_a_maximum.amsgrad" in audit_space(space, POINTS)


def test_parameter_of_a_branch_that_is_never_valid_is_named(planted):
    space = planted(loss="{choose: {hinge: {}, wgan_gp: {gp_weight: [1, 10]}}}", penalty="r1")
    found = complaints(space)
    assert set(found) == {"loss.wgan_gp.gp_weight"}
    assert "no two valid configurations" in found["loss.wgan_gp.gp_weight"]


def test_parameter_of_which_only_one_value_is_ever_valid_is_named(planted):
    space = planted(loss="{wasserstein: {clip: [0, 0.01]}}", penalty="r1")
    assert set(complaints(space)) == {"loss.wasserstein.clip"}


def test_parameter_whose_other_values_a_rule_forbids_is_named(planted):
    rules = "[{forbid: {lr_g: 1e-3, grad_clip: 1}, why: x}]"
    space = planted(lr_g="[1e-3]", grad_clip="[0, 1]", lr_d_ratio="[1, 2]", rules=rules)
    assert complaints(space) == {"grad_clip": "occurs in no two valid configurations that differ in it alone"}


def test_audit_holds_rules_against_the_batches_of_the_search_and_not_its_own_small_ones(planted):
    space = planted(batch_size="[4, 64]", grad_clip="[0, 1]", rules="[{forbid: {batch_size: 4, grad_clip: 1}, why: x}]")
    assert {"batch_size", "grad_clip"} <= set(audit_space(space, POINTS))


def test_half_life_beyond_what_the_budget_allows_changes_nothing(planted):
    space = planted(ema_halflife_samples="[20_000, 40_000]")  # of 60,000 samples at most 3,000 are averaged over
    assert set(complaints(space)) == {"ema_halflife_samples"}


def test_constants_at_their_defaults_and_branches_need_no_proof(planted):
    space = planted(architecture="mlp", loss="[hinge, least_squares]")
    assert audit_space(space, POINTS) == []


def test_audit_leaves_the_global_stream_as_it_was(planted):
    space = planted(architecture="'test_audit:dropping'", ema_halflife_samples="[100, 200]")
    before = torch.get_rng_state()
    audit_space(space, POINTS)
    assert torch.equal(torch.get_rng_state(), before)


def test_architecture_that_cannot_be_built_stops_the_audit(planted):
    with pytest.raises(PluginError, match=r"architecture `test_audit:unbuildable` cannot be built .*no such shape"):
        audit_space(planted(architecture="{'test_audit:unbuildable': {hidden: [4, 8]}}"), POINTS)


@pytest.mark.parametrize("conditional", ["true", "[true, false]"])
def test_labels_that_the_data_lack_stop_the_audit(planted, conditional):
    space = planted(architecture=f"{{mlp: {{hidden: 8, depth: 1, z_dim: 2, conditional: {conditional}}}}}")
    with pytest.raises(PluginError, match=r"conditional: true needs labels.*use conditional: false"):
        audit_space(space, PointShape(2))


def test_search_over_a_dead_parameter_ends_before_its_first_trial(planted, tmp_path):
    run = Run(tmp_path / "run")
    space = planted(architecture="{'test_audit:small': {ignored: [1, 2]}}")
    with pytest.raises(AuditError, match=r"architecture\.test_audit:small\.ignored: changes nothing"):
        search(space, run, Screen(io.StringIO()))
    assert not ray.is_initialized()
    assert not (run.folder / "trials").exists()
    assert list(run.results.rows()) == []


# A trainer


def component(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def make(**changes):
    values = {
        "data": DataConfig(dataset="gaussians8"),
        "objective": ObjectiveConfig(),
        "collapse": CollapseConfig(),
        "samples": 1000,
        "target": None,
        "seed": 0,
        "architecture": component("mlp", hidden=8, depth=1, z_dim=2),
        "loss": component("hinge", d_steps=1),
        "penalty": component("r1", weight=0.5, every=1),
        "optimizer": component("adam", beta1=0.5, beta2=0.9),
        "lr_g": 1e-3,
        "lr_d_ratio": 2.0,
        "batch_size": 4,
    }
    return TrialConfig(**{**values, **changes})


def trainer_of(**changes):
    return GANTrainer(make(**changes), POINTS, CPU)


def noise(shape=POINTS):
    draws = torch.Generator().manual_seed(0)
    return lambda count: Batch(torch.rand(count, *shape.dims, generator=draws) * 2 - 1, torch.zeros(count).long())


def refused(trainer):
    with pytest.raises(AuditError) as caught:
        check_in_force(trainer)
    text = str(caught.value)
    assert text.startswith("not in force: ")
    return text.removeprefix("not in force: ").split("; ")


OPTIMIZERS = {
    "adam": component("adam", beta1=0.5, beta2=0.9),
    "adam without momentum": component("adam", beta1=0.0, beta2=0.99),
    "adamw": component("adamw", beta1=0.5, beta2=0.9, weight_decay=1e-3),
    "rmsprop": component("rmsprop", alpha=0.9, momentum=0.0),
    "rmsprop with momentum": component("rmsprop", alpha=0.9, momentum=0.5),
    "sgd": component("sgd", momentum=0.0, nesterov=False),
    "sgd with nesterov": component("sgd", momentum=0.9, nesterov=True),
    "adam of defaults": component("adam"),
}
SCHEDULES = {
    "constant": component("constant"),
    "linear": component("linear", start=0.2, final=0.1),
    "cosine": component("cosine", end=0.5, final=0.05),
}
TERMS = {
    "none": {},
    "every step": {"penalty": component("r1", weight=0.5, every=1)},
    "lazy": {"penalty": component("r1_r2", weight=0.5, every=4)},
    "lazy between": {"penalty": component("gradient_penalty", weight=5.0, every=8)},
    "own": {"loss": component("wgan_gp", gp_weight=2.0, d_steps=2), "penalty": component("none")},
    "dragan and lecam": {
        "penalty": component("dragan", weight=3.0, every=2),
        "regularizer": component("lecam", weight=0.1, decay=0.9),
    },
}


@pytest.mark.parametrize("terms", list(TERMS))
@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_untouched_trainer_is_in_force_at_the_start_and_wherever_it_is_restored(optimizer, schedule, terms):
    beta = "constant" if optimizer.startswith("sgd") else schedule
    config = make(
        optimizer=OPTIMIZERS[optimizer],
        lr_schedule=SCHEDULES[schedule],
        beta_schedule=SCHEDULES[beta],
        lr_warmup=0.1,
        **TERMS[terms],
    )
    assert conflict(config) is None
    trainer = GANTrainer(config, POINTS, CPU)
    check_in_force(trainer)
    for share in (0.05, 0.3, 0.6, 0.99):
        trainer.samples_seen = int(share * config.samples)
        trainer.step(noise())
        restored = GANTrainer(config, POINTS, CPU)
        restored.load_state(trainer.state())
        check_in_force(restored)


@pytest.mark.parametrize(
    ("parameter", "chosen", "shape"),
    [
        ("penalty", component("r2", weight=0.3, every=16), POINTS),
        ("penalty", component("none"), POINTS),
        ("regularizer", component("consistency", weight=2.0, every=2, shift=0.25, mirror=True), ImageShape(1, 8)),
        ("augmentation", component("diffaugment", color=False, cutout=True), ImageShape(1, 8)),
        ("augmentation", component("ada", target=0.5, speed_samples=1000), ImageShape(1, 8)),
        ("loss", component("wasserstein", clip=0.0, d_steps=3), POINTS),
        ("loss", component("minimax", label_smoothing=0.1, d_steps=2), POINTS),
        ("loss", component("relativistic"), POINTS),
        ("optimizer_d", component("rmsprop", alpha=0.99, momentum=0.1), POINTS),
    ],
)
def test_untouched_component_is_in_force(parameter, chosen, shape):
    check_in_force(GANTrainer(make(**{parameter: chosen}), shape, CPU))


def test_built_in_components_with_options_are_all_tried_above():
    assert set(plugins.BUILTIN["optimizer"]) == {chosen.name for chosen in OPTIMIZERS.values()}
    assert set(plugins.BUILTIN["schedule"]) == {chosen.name for chosen in SCHEDULES.values()}


@pytest.mark.parametrize(
    ("network", "changes", "group", "complaint"),
    [
        ("g", {}, {"lr": 2e-3}, "the learning rate of optimizer is 0.002 instead of 0.001"),
        ("d", {}, {"lr": 1e-3}, "the learning rate of optimizer is 0.001 instead of 0.002"),
        (
            "d",
            {"optimizer_d": component("sgd", momentum=0.5)},
            {"lr": 0.5},
            "the learning rate of optimizer_d is 0.5 instead of 0.002",
        ),
        ("g", {}, {"betas": (0.9, 0.9)}, "optimizer.adam.beta1 is 0.9 instead of 0.5"),
        ("d", {}, {"betas": (0.5, 0.999)}, "optimizer.adam.beta2 is 0.999 instead of 0.9"),
        (
            "g",
            {"optimizer": OPTIMIZERS["adamw"]},
            {"weight_decay": 0.01},
            "optimizer.adamw.weight_decay is 0.01 instead of 0.001",
        ),
        ("g", {"optimizer": OPTIMIZERS["rmsprop"]}, {"alpha": 0.99}, "optimizer.rmsprop.alpha is 0.99 instead of 0.9"),
        (
            "d",
            {"optimizer": OPTIMIZERS["rmsprop with momentum"]},
            {"momentum": 0.0},
            "optimizer.rmsprop.momentum is 0 instead of 0.5",
        ),
        ("g", {"optimizer": OPTIMIZERS["sgd"]}, {"momentum": 0.9}, "optimizer.sgd.momentum is 0.9 instead of 0"),
        (
            "d",
            {"optimizer_d": OPTIMIZERS["sgd with nesterov"]},
            {"nesterov": False},
            "optimizer_d.sgd.nesterov is 0 instead of 1",
        ),
    ],
)
def test_rate_that_is_not_the_configurations_is_named_with_both_values(network, changes, group, complaint):
    trainer = trainer_of(**changes)
    check_in_force(trainer)
    optimizer = trainer.optimizer_g if network == "g" else trainer.optimizer_d
    optimizer.param_groups[0].update(group)
    assert refused(trainer) == [complaint]


def test_rate_of_a_lazy_penalty_is_held_to_its_corrected_value():
    trainer = trainer_of(penalty=component("r1", weight=0.5, every=4))
    trainer.optimizer_d.param_groups[0]["lr"] = 2e-3  # right without the correction by 4 / 5
    assert refused(trainer) == ["the learning rate of optimizer is 0.002 instead of 0.0016"]


def test_rate_of_another_moment_of_the_budget_is_not_in_force():
    trainer = trainer_of(lr_schedule=component("linear", start=0.0, final=0.0))
    trainer.samples_seen = 500
    assert refused(trainer) == [
        "the learning rate of optimizer is 0.001 instead of 0.0005",
        "the learning rate of optimizer is 0.002 instead of 0.001",
    ]


@pytest.mark.parametrize("name", ["weight", "every"])
def test_penalty_that_is_not_the_configurations_is_named_with_both_values(name):
    trainer = trainer_of(penalty=component("r1", weight=0.5, every=2))
    setattr(trainer.terms["penalty"], name, 7)
    assert refused(trainer) == [f"penalty.r1.{name} is 7 instead of {0.5 if name == 'weight' else 2}"]


def test_penalty_that_a_loss_brings_is_held_to_the_configuration_too():
    trainer = trainer_of(loss=component("wgan_gp", gp_weight=2.0, d_steps=1), penalty=component("none"))
    trainer.terms["game"].weight = 7.0
    (complaint,) = refused(trainer)
    assert "loss.wgan_gp" in complaint
    assert "weight=7" in complaint
    assert "weight=2" in complaint


def test_regularizer_augmentation_and_game_are_held_to_the_configuration_too():
    trainer = GANTrainer(
        make(
            regularizer=component("lecam", weight=0.1, decay=0.9),
            augmentation=component("ada", target=0.5, speed_samples=1000),
        ),
        ImageShape(1, 8),
        CPU,
    )
    trainer.terms["regularizer"].decay = 0.99
    trainer.augmentation.target = 0.6
    trainer.game = replace(trainer.game, d_steps=3)
    assert set(refused(trainer)) == {
        "loss.hinge.d_steps is 3 instead of 1",
        "regularizer.lecam.decay is 0.99 instead of 0.9",
        "augmentation.ada.target is 0.6 instead of 0.5",
    }


def test_everything_that_is_not_in_force_is_named_at_once():
    trainer = trainer_of()
    trainer.optimizer_g.param_groups[0].update(lr=1.0, betas=(0.1, 0.2))
    trainer.terms["penalty"].weight = 3.0
    assert len(refused(trainer)) == 4


def test_state_of_other_rates_leaves_the_own_rates_in_force():
    other = trainer_of(optimizer=component("adam", beta1=0.0, beta2=0.99), lr_g=0.1)
    other.step(noise())
    trainer = trainer_of()
    trainer.load_state(other.state())
    check_in_force(trainer)


def test_optimizer_restored_with_the_rates_of_its_file_is_refused():
    other = trainer_of(optimizer=component("adam", beta1=0.0, beta2=0.9), lr_g=0.1)
    other.step(noise())
    trainer = trainer_of()
    trainer.optimizer_g.load_state_dict(other.optimizer_g.state_dict())
    assert refused(trainer) == [
        "the learning rate of optimizer is 0.1 instead of 0.001",
        "optimizer.adam.beta1 is 0 instead of 0.5",
    ]


def test_optimizer_that_ignores_its_rate_is_never_in_force():
    trainer = trainer_of(optimizer=component("test_audit:deaf_to_lr", beta1=0.5), lr_g=1e-2)
    assert refused(trainer)[0] == "the learning rate of optimizer is 0.001 instead of 0.01"
