import itertools
import sys

import pytest

from gantune import plugins
from gantune.compatibility import Above, Not, OneOf, check_trial, conflict, refuses, rules
from gantune.config import (
    COMPONENTS,
    VALUES,
    CollapseConfig,
    Component,
    DataConfig,
    ObjectiveConfig,
    TrialConfig,
)
from gantune.errors import SpecError

FRESH = itertools.count()
POINTS = ("gaussians8", "gaussians25", "swiss_roll")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a user's own and gives its name."""

    def write(text):
        name = f"own_rules_{next(FRESH)}"
        (tmp_path / f"{name}.py").write_text("from gantune.compatibility import *\n" + text, encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if name.startswith("own_rules_")]:
        del sys.modules[name]


def of(name, **options):
    return Component(name=name, options=tuple(sorted(options.items())))


def make(*, dataset="digits", **changes):
    """A configuration that goes together, with other components: a name, or a name with options."""
    values = {
        "data": DataConfig(dataset=dataset),
        "objective": ObjectiveConfig(),
        "collapse": CollapseConfig(),
        "samples": 1000,
        "target": None,
        "seed": 0,
        "architecture": of("mlp"),
        "loss": of("hinge"),
        "optimizer": of("adam"),
        "lr_g": 1e-3,
    }
    parts = {
        name: of(value) if isinstance(value, str) and name in COMPONENTS else value for name, value in changes.items()
    }
    return TrialConfig(**{**values, **parts})


def batch(architecture="mlp"):
    return of(architecture, norm_d="batch")


def norm(kind, architecture="mlp"):
    return of(architecture, norm_d=kind)


# who refuses, by which of its rules, what the text must name, what goes wrong, and what comes near it and is fine
CASES = [
    (
        ("loss", "wasserstein", 0),
        ["clip: 0", "penalty: none", "norm_d: layer"],
        {"loss": "wasserstein", "architecture": norm("layer")},
        [
            {"loss": of("wasserstein", clip=0.01), "architecture": norm("layer")},
            {"loss": "wasserstein", "architecture": norm("layer"), "penalty": "r1"},
            {"loss": "wasserstein", "architecture": norm("spectral")},
        ],
    ),
    (
        ("loss", "wasserstein", 1),
        ["clip: 0.01", "penalty: r1"],
        {"loss": of("wasserstein", clip=0.01), "penalty": "r1"},
        [{"loss": of("wasserstein", clip=0.01)}, {"loss": of("wasserstein", clip=0.0), "penalty": "r1"}],
    ),
    (
        ("loss", "wasserstein", 2),
        ["clip: 0.01", "norm_d: spectral"],
        {"loss": of("wasserstein", clip=0.01), "architecture": norm("spectral")},
        [
            {"loss": of("wasserstein", clip=0.0), "architecture": norm("spectral")},
            {"loss": of("wasserstein", clip=0.01), "architecture": norm("batch")},
        ],
    ),
    (
        ("loss", "wgan_gp", 0),
        ["penalty: r1"],
        {"loss": "wgan_gp", "penalty": "r1"},
        [{"loss": "wgan_gp"}, {"loss": of("wasserstein"), "penalty": "gradient_penalty"}],
    ),
    (
        ("loss", "wgan_gp", 1),
        ["norm_d: batch"],
        {"loss": "wgan_gp", "architecture": batch()},
        [{"loss": "wgan_gp", "architecture": norm(kind)} for kind in ("layer", "spectral", "none")],
    ),
    (
        ("architecture", "r3gan", 2),
        ["loss: wasserstein", "clip: 0", "penalty: none"],
        {"architecture": "r3gan", "loss": "wasserstein"},
        [
            {"architecture": "r3gan", "loss": of("wasserstein", clip=0.01)},
            {"architecture": "r3gan", "loss": "wasserstein", "penalty": "r1"},
            {"architecture": "r3gan", "loss": "hinge"},
        ],
    ),
    *(
        (
            ("optimizer", name, 0),
            ["beta_schedule.cosine.final: 0"],
            {"optimizer": name, "beta_schedule": of("cosine", final=0.0)},
            [
                {"optimizer": name, "beta_schedule": of("cosine", final=0.1)},
                {"optimizer": name, "lr_schedule": of("cosine", final=0.0)},
            ],
        )
        for name in ("adam", "adamw", "rmsprop")
    ),
    (
        ("penalty", "none", 0),
        ["penalty_schedule: linear", "loss: hinge"],
        {"penalty_schedule": "linear"},
        [
            {"penalty_schedule": "constant"},
            {"penalty_schedule": "linear", "loss": "wgan_gp"},
            {"penalty_schedule": "linear", "penalty": "r1"},
        ],
    ),
    *(
        (
            ("penalty", name, 0),
            ["norm_d: batch"],
            {"penalty": name, "architecture": batch()},
            [
                {"penalty": name, "architecture": norm("layer")},
                {"penalty": name, "architecture": norm("instance", "dcgan")},
                {"penalty": "none", "architecture": batch()},
            ],
        )
        for name in ("gradient_penalty", "dragan", "r1", "r2", "r1_r2")
    ),
    *(
        (
            ("regularizer", "consistency", 0),
            [f"data.dataset: {points}"],
            {"regularizer": "consistency", "dataset": points},
            [{"regularizer": "consistency"}, {"regularizer": "lecam", "dataset": points}],
        )
        for points in POINTS
    ),
    *(
        (
            ("augmentation", name, 0),
            [f"data.dataset: {points}"],
            {"augmentation": name, "dataset": points},
            [{"augmentation": name, "dataset": "mnist"}, {"augmentation": "none", "dataset": points}],
        )
        for name in ("diffaugment", "ada")
        for points in POINTS
    ),
    *(
        (
            ("augmentation", name, 1),
            ["color: false", "translation: false", "cutout: false"],
            {"augmentation": of(name, color=False, translation=False, cutout=False)},
            [
                {"augmentation": of(name, **dict.fromkeys(off, False))}
                for off in itertools.combinations(("color", "translation", "cutout"), 2)
            ],
        )
        for name in ("diffaugment", "ada")
    ),
    (
        ("optimizer", "sgd", 0),
        ["beta_schedule: linear"],
        {"optimizer": "sgd", "beta_schedule": "linear"},
        [
            {"optimizer": "sgd", "lr_schedule": "linear"},
            {"optimizer": "rmsprop", "beta_schedule": of("linear", final=0.1)},
        ],
    ),
    (
        ("optimizer", "sgd", 1),
        ["nesterov: true", "momentum: 0"],
        {"optimizer": of("sgd", nesterov=True)},
        [{"optimizer": of("sgd", nesterov=True, momentum=0.1)}, {"optimizer": of("sgd", momentum=0.0)}],
    ),
    *(
        (
            ("architecture", name, 0),
            [f"data.dataset: {points}"],
            {"architecture": name, "dataset": points},
            [{"architecture": name, "dataset": "cifar10"}, {"architecture": "mlp", "dataset": points}],
        )
        for name in ("dcgan", "resnet", "r3gan")
        for points in POINTS
    ),
    (
        ("architecture", "r3gan", 1),
        ["penalty: none", "loss: relativistic"],
        {"architecture": "r3gan", "loss": "relativistic"},
        [
            {"architecture": "r3gan", "loss": "relativistic", "penalty": "r1_r2"},
            {"architecture": "r3gan", "loss": "hinge"},
            {"architecture": "mlp", "loss": "relativistic"},
        ],
    ),
]

ids = [f"{parameter}.{name}.{index}" for (parameter, name, index), *_ in CASES]


def built_in(parameters=tuple(COMPONENTS)):
    """Every built-in component that a parameter may hold: the parameter, its name and its factory."""
    for parameter in parameters:
        for name in plugins.BUILTIN[COMPONENTS[parameter]]:
            yield parameter, name, plugins.resolve(COMPONENTS[parameter], name)


@pytest.mark.parametrize(("who", "named", "wrong", "fine"), CASES, ids=ids)
def test_what_does_not_go_together_is_refused_with_both_names_the_reason_and_the_fix(who, named, wrong, fine):
    parameter, name, index = who
    rule = rules(plugins.resolve(COMPONENTS[parameter], name))[index]
    with pytest.raises(SpecError) as refused:
        check_trial(make(**wrong))
    text = str(refused.value)
    assert text.startswith(f"{parameter}.{name} does not go with ")
    assert text.endswith(f": {rule.why}; {rule.fix}. Nothing was started.")
    assert all(words in text for words in named)


@pytest.mark.parametrize(("who", "named", "wrong", "fine"), CASES, ids=ids)
def test_what_comes_near_but_goes_together_is_accepted(who, named, wrong, fine):
    assert fine
    for changes in fine:
        assert conflict(make(**changes)) is None
        check_trial(make(**changes))


def test_every_declared_rule_has_a_violation_planted():
    declared = {
        (COMPONENTS[parameter], name, index)
        for parameter, name, factory in built_in()
        for index in range(len(rules(factory)))
    }
    assert {(COMPONENTS[parameter], name, index) for (parameter, name, index), *_ in CASES} >= declared


def test_every_rule_says_in_words_what_it_refuses_why_and_what_to_use():
    for _, name, factory in built_in():
        for rule in rules(factory):
            assert rule.fix.startswith(("use ", "give ")), name
            assert rule.where, name
            assert str(rule).startswith("refuses ")
            assert str(rule).endswith(f": {rule.why}; {rule.fix}")
            assert all(path in str(rule) for path in rule.where)


def options_of(parameter):
    """The options of all built-in components that a parameter may hold, of one name several."""
    found = {}
    for _, _, factory in built_in([parameter]):
        for option in plugins.options(factory).values():
            found.setdefault(option.name, []).append(option)
    return found


def values_in(condition):
    if isinstance(condition, OneOf):
        return condition.values
    return [getattr(condition, "value", getattr(condition, "low", condition))]


@pytest.mark.parametrize(("parameter", "name"), [(parameter, name) for parameter, name, _ in built_in()])
def test_rules_speak_of_options_parameters_and_values_that_exist(parameter, name):
    factory = plugins.resolve(COMPONENTS[parameter], name)
    for rule in rules(factory):
        for path, condition in rule.where.items():
            head, _, option = path.partition(".")
            if path == "data.dataset":
                assert set(values_in(condition)) <= set(plugins.BUILTIN["dataset"])
            elif not option and head in COMPONENTS:
                assert set(values_in(condition)) <= set(plugins.BUILTIN[COMPONENTS[head]])
            elif option:
                known = options_of(head)[option]
                assert all(any(_accepts(each, value) for each in known) for value in values_in(condition))
            elif head in VALUES:
                assert all(_accepts(plugins.options(TrialConfig)[head], value) for value in values_in(condition))
            else:
                assert all(_accepts(plugins.options(factory)[head], value) for value in values_in(condition))


def _accepts(option, value):
    try:
        return option.convert(value) == value
    except ValueError:
        return False


def test_no_component_is_refused_by_its_own_defaults_alone():
    bounded = {"wasserstein": {"penalty": "r1"}}
    for parameter, name, _ in built_in([each for each in COMPONENTS if each != "optimizer_d"]):
        needed = bounded.get(name, {}) if parameter == "loss" else {}
        needed = {"penalty": "r1"} if parameter == "penalty_schedule" else needed
        decays = parameter == "beta_schedule" and name != "constant"  # to 0 unless told otherwise
        chosen = of(name, final=0.1) if decays else name
        assert conflict(make(**{**needed, parameter: chosen})) is None, (parameter, name)


def test_default_of_an_option_that_is_not_given_counts():
    assert "architecture.dcgan.norm_d: batch" in conflict(make(architecture="dcgan", penalty="r1"))
    assert conflict(make(architecture="resnet", penalty="r1")) is None  # spectral
    assert "loss.wasserstein.clip: 0" in conflict(make(loss="wasserstein"))


def test_option_that_is_given_outweighs_its_default():
    assert conflict(make(architecture=norm("layer", "dcgan"), penalty="r1")) is None
    assert "architecture.resnet.norm_d: batch" in conflict(make(architecture=batch("resnet"), penalty="r1"))


@pytest.mark.parametrize("penalty", ["gradient_penalty", "dragan", "r1", "r2", "r1_r2"])
def test_architecture_without_the_option_meets_no_condition(penalty):
    assert "norm_d" not in plugins.options(plugins.resolve("architecture", "r3gan"))
    assert conflict(make(architecture="r3gan", penalty=penalty)) is None


@pytest.mark.parametrize("condition", ["Not('spectral')", "OneOf('none', 'layer')", "'none'", "None"])
def test_no_condition_whatever_holds_for_an_option_that_is_not_there(module, condition):
    own = module(f"@refuses({{'architecture.norm_d': {condition}}}, why='w', fix='f')\ndef critic(): ...\n")
    assert conflict(make(architecture="r3gan", loss=f"{own}:critic")) is None


@pytest.mark.parametrize("architecture", plugins.BUILTIN["architecture"])
def test_critic_of_any_architecture_must_be_bounded(architecture):
    options = plugins.options(plugins.resolve("architecture", architecture))
    held = of(architecture, **({"norm_d": "none"} if "norm_d" in options else {}))
    assert "nothing bounds the critic" in (conflict(make(architecture=held, loss="wasserstein")) or "")
    assert conflict(make(architecture=held, loss=of("wasserstein", clip=0.01))) is None
    assert conflict(make(architecture=held, loss="wasserstein", penalty="r1")) is None


def test_rule_of_an_optimizer_holds_for_the_discriminators_own():
    assert conflict(make(optimizer_d=of("sgd", nesterov=True))).startswith("optimizer_d.sgd does not go with ")
    assert conflict(make(optimizer_d=of("sgd", nesterov=True, momentum=0.5))) is None


@pytest.mark.parametrize(
    ("condition", "inside", "outside", "words"),
    [
        (Above(0), [1, 1e-9], [0, 0.0, -1, "1", None], "above 0"),
        (Not("none"), ["r1", 0, None], ["none"], "not none"),
        (OneOf("a", "b"), ["a", "b"], ["c", "ab", None, 0], "a or b"),
        (OneOf(1, 2.5), [1, 2.5], [2, "1"], "1 or 2.5"),
    ],
    ids=str,
)
def test_condition_holds_where_its_words_say(condition, inside, outside, words):
    assert all(condition.holds(value) for value in inside)
    assert not any(condition.holds(value) for value in outside)
    assert str(condition) == words


def test_component_of_ones_own_is_refused_by_its_own_rule(module):
    name = module(
        "@refuses({'margin': Above(1), 'architecture.norm_d': OneOf('batch', 'layer')}, why='w', fix='use 1')\n"
        "def critic(*, margin: float = 2.0): ...\n"
    )
    own = f"{name}:critic"
    text = conflict(make(loss=own, architecture=batch()))
    assert text == (f"loss.{own} does not go with loss.{own}.margin: 2 and architecture.mlp.norm_d: batch: w; use 1")
    assert conflict(make(loss=of(own, margin=1.0), architecture=batch())) is None
    assert conflict(make(loss=own)) is None


def test_rule_may_speak_of_a_plain_parameter_and_of_another_components_name(module):
    name = module("@refuses({'batch_size': Above(64), 'loss': 'hinge'}, why='w', fix='f')\ndef penalty(): ...\n")
    own = f"{name}:penalty"
    assert "batch_size: 128 and loss: hinge" in conflict(make(penalty=own, batch_size=128))
    assert conflict(make(penalty=own, batch_size=64)) is None
    assert conflict(make(penalty=own, batch_size=128, loss="minimax")) is None


def test_own_option_may_be_called_like_a_field_of_the_trial_that_is_no_parameter(module):
    own = module("@refuses({'target': Above(1)}, why='w', fix='f')\ndef critic(*, target: float = 0.5): ...\n")
    assert "critic.target: 2" in (conflict(make(loss=of(f"{own}:critic", target=2.0))) or "")
    assert conflict(make(loss=f"{own}:critic", target=50.0)) is None


def test_options_of_a_component_that_is_not_chosen_meet_no_condition(module):
    own = module(
        "@refuses({'optimizer_d.momentum': 0.0}, why='w', fix='f')\ndef critic(*, momentum: float = 0.0): ...\n"
    )
    assert conflict(make(loss=f"{own}:critic")) is None
    assert conflict(make(loss=f"{own}:critic", optimizer_d="adam")) is None
    assert "optimizer_d.sgd.momentum: 0" in conflict(make(loss=f"{own}:critic", optimizer_d="sgd"))


def test_rule_of_true_does_not_speak_of_one(module):
    own = module("@refuses({'count': True}, why='w', fix='f')\ndef critic(*, count: int = 1): ...\n")
    assert conflict(make(loss=f"{own}:critic")) is None


def test_rules_stand_in_the_order_of_their_declarations_and_the_first_that_holds_is_told():
    @refuses({"a": 1}, why="first", fix="f")
    @refuses({"a": Above(0)}, why="second", fix="f")
    def component(*, a=1): ...

    assert [rule.why for rule in rules(component)] == ["first", "second"]
    assert rules(make) == ()


def test_declaring_a_rule_leaves_the_component_what_it_was():
    def component(*, a=1):
        return a

    assert refuses({"a": 1}, why="w", fix="f")(component) is component
    assert component(a=3) == 3


def test_rules_of_a_derived_component_add_to_those_it_inherits():
    @refuses({"a": 1}, why="inherited", fix="f")
    class Parent: ...

    @refuses({"a": 2}, why="own", fix="f")
    class Child(Parent): ...

    assert [rule.why for rule in rules(Child)] == ["own", "inherited"]
    assert [rule.why for rule in rules(Parent)] == ["inherited"]
