import itertools
import sys
from typing import Annotated, Literal

import pytest

from gantune import plugins
from gantune.config import Bounds, TrialConfig
from gantune.errors import PluginError, SpecError
from gantune.plugins import did_you_mean, names, options, resolve
from gantune.space import load_space
from gantune.writing import dump

FRESH = itertools.count()
SPACE = "version: 1\nspace:\n  architecture: mlp\n  loss: {'%s': {%s}}\n  optimizer: adam\n  lr_g: 1e-4\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a user's own and gives its name."""

    def write(text):
        name = f"own_plugin_{next(FRESH)}"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if name.startswith("own_plugin_")]:
        del sys.modules[name]


def example(
    first,
    *,
    number: float = 1.5,
    count: Annotated[int, Bounds(low=1, high=9)] = 3,
    positive: Annotated[float, Bounds(above=0)],
    norm: Literal["batch", "none"] = "none",
    flag: bool = False,
    name: str = "x",
    maybe: float | None = None,
    bounded: Annotated[int, Bounds(low=0)] | None = None,
    wrapped: Annotated[int | None, Bounds(low=5)] = None,
): ...


@pytest.mark.parametrize("kind", list(plugins.BUILTIN))
def test_every_built_in_name_resolves_to_a_function_with_readable_options(kind):
    for name in plugins.BUILTIN[kind]:
        declared = options(resolve(kind, name))

        assert all(option.kind in (int, float, str, bool) for option in declared.values())
        for option in declared.values():
            assert option.required or option.convert(option.default) == option.default


def test_module_and_function_resolve(module):
    name = module("def critic(*, margin: float = 1.0): return margin\n")

    assert resolve("loss", f"{name}:critic")(margin=3) == 3


def test_module_inside_a_package_resolves(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "losses.py").write_text("def critic(): return 7\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    assert resolve("loss", "own_package.losses:critic")() == 7


def test_component_of_ones_own_is_searched_like_a_built_in(module, tmp_path):
    name = module(
        "from typing import Annotated\n"
        "from gantune.config import Bounds\n"
        "def critic(*, margin: Annotated[float, Bounds(above=0)] = 1.0): ...\n"
    )
    path = tmp_path / "space.yaml"
    path.write_text(SPACE % (f"{name}:critic", "margin: log 0.1..10"), encoding="utf-8")

    assert list(load_space(path).searched()) == [f"loss.{name}:critic.margin"]


def test_component_inside_a_package_is_searched_overridden_and_written_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "own_plugin_package").mkdir()
    (tmp_path / "own_plugin_package" / "losses.py").write_text("def critic(*, k: int = 1): ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path, margin = tmp_path / "space.yaml", "loss.own_plugin_package.losses:critic.k"
    path.write_text(
        SPACE % ("own_plugin_package.losses:critic", "k: 1..3")
        + "baseline: {loss: {'own_plugin_package.losses:critic': {k: 2}}}\n",
        encoding="utf-8",
    )
    space = load_space(path)

    assert list(space.searched()) == [margin]
    assert space.baseline[margin] == 2
    assert list(load_space(path, [f"{margin}=1..2"]).searched()) == [margin]
    path.write_text(dump(space.document()), encoding="utf-8")
    assert load_space(path) == space


def test_installed_package_makes_a_name_known(module, tmp_path):
    name = module("def critic(): return 7\n")
    folder = tmp_path / "own_plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plugin\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(f"[gantune.loss]\nown_critic = {name}:critic\n", encoding="utf-8")

    assert "own_critic" in names("loss")
    assert "own_critic" not in names("optimizer")
    assert resolve("loss", "own_critic")() == 7


def test_known_names_start_with_the_built_in_ones():
    for kind, known in plugins.BUILTIN.items():
        assert names(kind)[: len(known)] == list(known)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("wgan-gp", "did you mean `wgan_gp`?"),
        ("hindge", "did you mean `hinge`?"),
        ("qqq", "known: minimax, non_saturating, least_squares, hinge, wasserstein, wgan_gp"),
        ("", "known: minimax"),
    ],
)
def test_unknown_name_offers_the_nearest_or_lists_the_known(name, remedy):
    with pytest.raises(PluginError) as caught:
        resolve("loss", name)

    assert str(caught.value).startswith(f"unknown loss `{name}`; {remedy}")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:critic", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such_function", "AttributeError: "),
        ("json:", "AttributeError: "),
        (":critic", "ValueError: "),
        ("..json:loads", "TypeError: "),
        ("json:__doc__", "is not a function"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_name_and_the_reason(target, reason):
    with pytest.raises(PluginError) as caught:
        resolve("loss", target)

    assert str(caught.value).startswith(f"loss `{target}` ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def critic(:", "SyntaxError: "),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise SystemExit(2)", "SystemExit: 2"),
    ],
)
def test_module_that_fails_on_import_is_refused_with_the_reason(module, text, reason):
    name = module(text + "\n")
    with pytest.raises(PluginError) as caught:
        resolve("loss", f"{name}:critic")

    assert f"loss `{name}:critic` cannot be loaded: " in str(caught.value)
    assert reason in str(caught.value)


def test_interrupt_during_an_import_stays_an_interrupt(module):
    name = module("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        resolve("loss", f"{name}:critic")


def test_options_are_the_keyword_only_parameters_in_order():
    assert list(options(example)) == [
        "number",
        "count",
        "positive",
        "norm",
        "flag",
        "name",
        "maybe",
        "bounded",
        "wrapped",
    ]


@pytest.mark.parametrize(
    ("name", "kind", "optional", "bounds", "default"),
    [
        ("number", float, False, Bounds(), 1.5),
        ("count", int, False, Bounds(low=1, high=9), 3),
        ("norm", str, False, Bounds(), "none"),
        ("flag", bool, False, Bounds(), False),
        ("name", str, False, Bounds(), "x"),
        ("maybe", float, True, Bounds(), None),
        ("bounded", int, True, Bounds(low=0), None),
        ("wrapped", int, True, Bounds(low=5), None),
    ],
)
def test_option_is_read_from_its_annotation(name, kind, optional, bounds, default):
    option = options(example)[name]

    assert (option.kind, option.optional, option.bounds, option.default) == (kind, optional, bounds, default)
    assert not option.required


def test_option_without_a_default_is_required():
    assert options(example)["positive"].required


def test_literal_gives_the_choices():
    assert options(example)["norm"].choices == ("batch", "none")


def test_fields_of_a_configuration_are_options_too():
    declared = options(TrialConfig)

    assert declared["lr_g"].required
    assert declared["batch_size"].default == 64
    assert declared["batch_size"].bounds == Bounds(low=2)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("number", "a number"),
        ("count", "a whole number of at least 1 and of at most 9"),
        ("positive", "a number above 0"),
        ("norm", "one of batch, none"),
        ("flag", "true or false"),
        ("name", "text"),
    ],
)
def test_what_is_expected_is_said_in_words(name, words):
    assert options(example)[name].expected() == words


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [
        ("number", 2, 2.0),
        ("number", -1e-4, -1e-4),
        ("count", 9, 9),
        ("norm", "batch", "batch"),
        ("flag", True, True),
        ("maybe", None, None),
        ("bounded", 0, 0),
    ],
)
def test_accepted_value_comes_out_in_the_options_own_type(name, value, converted):
    got = options(example)[name].convert(value)

    assert got == converted
    assert type(got) is type(converted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", True),
        ("number", "1"),
        ("number", None),
        ("number", float("nan")),
        ("number", float("inf")),
        ("number", 10**400),
        ("count", 3.0),
        ("count", True),
        ("count", 0),
        ("count", 10),
        ("count", 10**400),
        ("positive", 0),
        ("norm", "layer"),
        ("norm", True),
        ("flag", 1),
        ("flag", "true"),
        ("name", 7),
        ("bounded", -1),
        ("bounded", "none"),
    ],
)
def test_refused_value_is_a_value_error_with_what_is_expected(name, value):
    option = options(example)[name]
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        option.convert(value)

    assert option.expected() in str(caught.value)


def test_literal_of_numbers_is_a_choice_between_numbers(module):
    name = module("from typing import Literal\ndef critic(*, k: Literal[1, 2, 4] = 1): ...\n")
    option = options(resolve("loss", f"{name}:critic"))["k"]

    assert option.convert(4) == 4
    with pytest.raises(ValueError, match="expected one of 1, 2, 4, got `3`"):
        option.convert(3)


@pytest.mark.parametrize(
    "text",
    [
        "def critic(*, k: list[int] = []): ...",
        "def critic(*, k: int | float = 1): ...",
        "def critic(*, k: 'Nowhere' = None): ...",
        "from pathlib import Path\ndef critic(*, k: Path = Path()): ...",
        "critic = int",
    ],
)
@pytest.mark.parametrize("given", ["", "k: 2"])
def test_component_whose_options_cannot_be_read_is_refused(module, tmp_path, text, given):
    name = module(text + "\n")
    path = tmp_path / "space.yaml"
    path.write_text(SPACE % (f"{name}:critic", given), encoding="utf-8")

    with pytest.raises(SpecError, match=r"space\.yaml:4:\d+  .*\n.*\n.*\n1 error\. Nothing was started"):
        load_space(path)


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("beta_1", ["beta1", "beta2"], "; did you mean `beta1`?"),
        ("trails", ["trials", "target"], "; did you mean `trials`?"),
        ("zzz", ["beta1", "beta2"], "; known: beta1, beta2"),
        ("zzz", [], ""),
        ("x", iter(["beta1"]), "; known: beta1"),
    ],
)
def test_nearest_name_is_offered_or_all_are_listed(name, known, words):
    assert did_you_mean(name, known) == words
