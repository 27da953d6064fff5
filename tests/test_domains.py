import random
from typing import Annotated, Literal

import pytest

from gantune import plugins
from gantune.config import Bounds
from gantune.document import Problems, parse
from gantune.domains import (
    Branch,
    Choice,
    Constant,
    FixedDraw,
    Uniform,
    contains,
    draw_value,
    overlap,
    read_branch,
    read_domain,
    read_parameters,
    searched,
)
from gantune.errors import SpecError


def component(
    *,
    number: float = 1.0,
    positive: Annotated[float, Bounds(above=0)] = 1.0,
    fraction: Annotated[float, Bounds(low=0, high=1)] = 0.5,
    count: Annotated[int, Bounds(low=2, high=100)] = 4,
    norm: Literal["batch", "layer", "none"] = "none",
    flag: bool = False,
    maybe: Annotated[int, Bounds(low=0)] | None = None,
): ...


def demanding(*, needed: Annotated[int, Bounds(low=1)], spare: int = 0): ...


OPTIONS = plugins.options(component)


def read(name, text):
    problems = Problems()
    domain = read_domain(parse(f"{name}: {text}", "f", problems).entries[name], OPTIONS[name], problems)
    problems.raise_if_any()
    return domain


def refusal(name, text):
    with pytest.raises(SpecError) as caught:
        read(name, text)
    return str(caught.value)


def branch(text, kind="loss"):
    problems = Problems()
    found = read_branch(parse(f"{kind}: {text}", "f", problems).entries[kind], kind, problems)
    problems.raise_if_any()
    return found


def refused_branch(text, kind="loss"):
    with pytest.raises(SpecError) as caught:
        branch(text, kind)
    return str(caught.value)


class Spread:
    """Draws at random and notes what it was asked for."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.asked = []

    def suggest_float(self, name, low, high, *, log=False):
        self.asked.append((name, low, high, log))
        return self.random.uniform(low, high)

    def suggest_int(self, name, low, high, *, log=False):
        self.asked.append((name, low, high, log))
        return self.random.randint(low, high)

    def suggest_categorical(self, name, choices):
        self.asked.append((name, choices))
        return self.random.choice(choices)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("number", "1e-4", 1e-4),
        ("number", "3", 3.0),
        ("number", "-2_000", -2000.0),
        ("count", "60", 60),
        ("count", "1_0", 10),
        ("norm", "batch", "batch"),
        ("flag", "true", True),
        ("maybe", "null", None),
        ("maybe", "0", 0),
    ],
)
def test_scalar_is_a_constant_in_the_options_own_type(name, text, value):
    domain = read(name, text)

    assert domain == Constant(value)
    assert type(domain.value) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "4.0", "expected a whole number of at least 2 and of at most 100, got `4.0`"),
        ("count", "1e1", "got `10.0`"),
        ("count", "true", "got `True`"),
        ("count", "'4'", "got `4`"),
        ("count", "null", "got nothing"),
        ("number", "true", "expected a number, got `True`"),
        ("number", ".nan", "got `nan`"),
        ("number", ".inf", "got `inf`"),
        ("number", "-.inf", "got `-inf`"),
        ("number", "1e999", "got `inf`"),
        ("number", "ten", "expected a number, got `ten`"),
        ("number", "{a: 1}", "`number` is not a component"),
        ("norm", "3", "expected one of batch, layer, none, got `3`"),
        ("norm", "bach", "did you mean `batch`?"),
        ("norm", "null", "got nothing"),
        ("flag", "off", "expected true or false, got `off`"),
        ("flag", "1", "expected true or false, got `1`"),
        ("maybe", "nothing", "expected a whole number of at least 0, got `nothing`"),
    ],
)
def test_value_of_another_type_is_refused_with_what_is_expected(name, text, expected):
    error = refusal(name, text)

    assert error.startswith(f"f:1:{len(name) + 3}  ")
    assert expected in error


@pytest.mark.parametrize("name", ["number", "positive", "fraction", "count"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_number_too_large_for_any_machine_is_refused(name, sign):
    assert refusal(name, sign + "9" * 400).startswith(f"f:1:{len(name) + 3}  `{name}`: expected ")


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("positive", ["1e-300", "5"], ["0", "-1e-9"]),
        ("fraction", ["0", "1", "0.5"], ["-1e-9", "1.0000001", "2"]),
        ("count", ["2", "100"], ["1", "101", "-2"]),
    ],
)
def test_bounds_hold_for_constants_choices_and_both_ends_of_ranges(name, inside, outside):
    middle = inside[-1]
    for text in inside:
        assert isinstance(read(name, text), Constant)
    for text in outside:
        assert f"`{name}`: expected " in refusal(name, text)
        assert f"`{name}`: expected " in refusal(name, f"[{middle}, {text}]")
        low, high = sorted([middle, text], key=float)
        assert f"`{name}`: " in refusal(name, f"{low}..{high}")


def test_bound_that_a_range_breaks_is_named():
    assert "expected a number of at least 0 and of at most 1, got 2" in refusal("fraction", "0..2")
    assert "expected a number of at least 0 and of at most 1, got -1" in refusal("fraction", "-1..1")


@pytest.mark.parametrize(
    ("name", "text", "low", "high", "log", "integer"),
    [
        ("number", "0..0.9", 0, 0.9, False, False),
        ("number", "-1..1", -1, 1, False, False),
        ("number", "log 1e-5..1e-2", 1e-5, 1e-2, True, False),
        ("number", "int 2..4", 2, 4, False, True),
        ("number", "log int 1..8", 1, 8, True, True),
        ("number", "int log 1..8", 1, 8, True, True),
        ("number", "1_000 .. 2E3", 1000, 2000, False, False),
        ("number", ".5..+2", 0.5, 2, False, False),
        ("count", "2..4", 2, 4, False, True),
        ("count", "int 2..4", 2, 4, False, True),
        ("count", "log 2..64", 2, 64, True, True),
        ("maybe", "0..3", 0, 3, False, True),
    ],
)
def test_range_is_read_with_its_prefixes(name, text, low, high, log, integer):
    assert read(name, text) == Uniform(low=low, high=high, log=log, integer=integer)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("number", "2..1", "the range is empty: 2 is not below 1"),
        ("number", "1..1", "the range is empty: 1 is not below 1"),
        ("number", "log 0..1", "a log range must start above 0, got 0"),
        ("number", "log -1..1", "a log range must start above 0, got -1"),
        ("number", "int 1.5..4", "a range of whole numbers needs whole ends, got 1.5..4"),
        ("number", "int 1..4.5", "a range of whole numbers needs whole ends, got 1..4.5"),
        ("count", "2.5..4", "a range of whole numbers needs whole ends"),
        ("maybe", "log 0..8", "a log range must start above 0"),
    ],
)
def test_range_that_holds_nothing_sensible_is_refused_with_the_reason(name, text, reason):
    error = refusal(name, text)

    assert error.startswith(f"f:1:{len(name) + 3}  `{name}`: {reason}")
    assert "^" * len(text) in error


@pytest.mark.parametrize(
    "text",
    ["1..", "..2", "1..2..3", "log log 1..2", "Log 1..2", "log1..2", "nan..1", "1..inf", "1..1e999", "1..x", "0x1..2"],
)
def test_text_that_is_no_range_is_refused_with_an_example(text):
    assert "or a range such as `log 1e-5..1e-2`" in refusal("number", text)
    assert "or a range such as `int 2..4`" in refusal("count", text)


@pytest.mark.parametrize("name", ["norm", "flag"])
def test_range_cannot_stand_for_what_is_no_number(name):
    assert f"`{name}`: expected " in refusal(name, "1..2")


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("count", "[16, 32]", (16, 32)),
        ("number", "[0.9, 1]", (0.9, 1.0)),
        ("norm", "[none, batch]", ("none", "batch")),
        ("flag", "[true, false]", (True, False)),
        ("maybe", "[null, 3]", (None, 3)),
    ],
)
def test_list_is_a_choice_in_the_order_it_is_written(name, text, values):
    domain = read(name, text)

    assert domain == Choice(values)
    assert [type(value) for value in domain.values] == [type(value) for value in values]


def test_list_of_one_is_a_constant():
    assert read("count", "[16]") == Constant(16)


@pytest.mark.parametrize(
    ("name", "text", "column", "reason"),
    [
        ("count", "[]", 8, "`count` has no choices"),
        ("count", "[4, 8, 4]", 15, "`count`: `4` is given twice"),
        ("number", "[1, 1.0]", 13, "`number`: `1` is given twice"),
        ("count", "[4, [8]]", 12, "`count`: a choice must be a plain value"),
        ("count", "[4, {a: 1}]", 12, "`count`: a choice must be a plain value"),
        ("count", "[4, 2..3]", 12, "`count`: expected a whole number"),
        ("count", "[4, 8.0]", 12, "`count`: expected a whole number"),
        ("number", "[1, true]", 13, "`number`: expected a number, got `True`"),
        ("norm", "[batch, leyer]", 15, "did you mean `layer`?"),
    ],
)
def test_bad_choice_is_refused_where_it_stands(name, text, column, reason):
    error = refusal(name, text)

    assert error.startswith(f"f:1:{column}  ")
    assert reason in error


def test_every_bad_choice_is_told():
    assert refusal("count", "[1, 4, x, 4, 200]").endswith("4 errors. Nothing was started.")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("hinge", ["hinge"]),
        ("{hinge: {d_steps: 2}}", ["hinge"]),
        ("{hinge: }", ["hinge"]),
        ("[hinge, minimax]", ["hinge", "minimax"]),
        ("{choose: [hinge, minimax]}", ["hinge", "minimax"]),
        ("{choose: {minimax: {}, hinge: {d_steps: 2}}}", ["minimax", "hinge"]),
        ("{choose: {hinge: {}}}", ["hinge"]),
    ],
)
def test_components_may_be_written_in_every_form(text, names):
    assert list(branch(text).options) == names


def test_option_that_is_not_given_is_a_constant_at_its_default():
    block = branch("{wgan_gp: {d_steps: 1..3}}").options["wgan_gp"]

    assert block == {"gp_weight": Constant(10.0), "d_steps": Uniform(low=1, high=3, log=False, integer=True)}


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("{hinge: {}, minimax: {}}", 7, "several loss blocks without `choose:`"),
        ("{choose: {hinge: {}}, minimax: {}}", 7, "several loss blocks without `choose:`"),
        ("[]", 7, "expected a loss"),
        ("{}", 7, "expected a loss"),
        ("{choose: {}}", 7, "expected a loss"),
        ("{choose: hinge}", 7, "expected a loss"),
        ("7", 7, "expected a loss"),
        ("hing", 7, "unknown loss `hing`"),
        ("[minimax, hing]", 17, "unknown loss `hing`"),
        ("{choose: {minimax: {}, hing: {}}}", 30, "unknown loss `hing`"),
        ("[hinge, {minimax: {d_steps: 1}}]", 15, "options need `choose:`"),
        ("[hinge, 7]", 15, "expected the name of a known loss"),
        ("{hinge: 7}", 15, "expected the options of loss `hinge`"),
        ("{hinge: {clip: 1}}", 16, "unknown parameter `clip` in loss.hinge"),
        ("{wgan_gp: {clip: 1}}", 18, "unknown parameter `clip` in loss.wgan_gp"),
        ("{hinge: {d_steps: {a: 1}}}", 25, "`d_steps` is not a component"),
    ],
)
def test_bad_branch_is_refused_where_it_stands(text, column, reason):
    error = refused_branch(text)

    assert error.startswith(f"f:1:{column}  ")
    assert reason in error


@pytest.mark.parametrize("text", ["[hinge, minimax, hinge]", "{choose: [hinge, hinge]}"])
def test_branch_listed_twice_is_refused(text):
    assert "`hinge` is given twice" in refused_branch(text)


def test_unknown_component_and_option_offer_the_nearest_name():
    assert "did you mean `hinge`?" in refused_branch("hing")
    assert "did you mean `beta1`?" in refused_branch("{adam: {beta_1: 0.5}}", "optimizer")


def test_missing_option_without_a_default_is_asked_for():
    problems = Problems()
    block = parse("block: {spare: 1}", "f", problems).entries["block"]
    read_parameters(block, plugins.options(demanding), "block", problems)

    with pytest.raises(
        SpecError, match=r"f:1:1  block needs `needed`\n.*\n.* add needed: a whole number of at least 1"
    ):
        problems.raise_if_any()


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Constant(0.5), [0.5], [0.6, None]),
        (Choice((16, 32)), [16, 32], [24, "16", None]),
        (Choice(("a", None)), ["a", None], ["b"]),
        (Uniform(low=0, high=0.9, log=False, integer=False), [0, 0.5, 0.9], [-1e-12, 0.9000001, "0.5", None]),
        (Uniform(low=1, high=4, log=False, integer=True), [1, 3, 4, 2.0], [0, 5, 2.5]),
        (Branch({"a": {}, "b": {}}), ["a", "b"], ["c", None]),
    ],
)
def test_domain_contains_its_values_and_no_others(domain, inside, outside):
    assert all(contains(domain, value) for value in inside)
    assert not any(contains(domain, value) for value in outside)


def test_range_overlaps_what_shares_a_value_with_it():
    draw = random.Random(0)
    values = [number / 2 for number in range(13)]  # whole numbers and halves show every case of ends below
    seen = set()
    for _ in range(400):
        ranges = []
        for _ in range(2):
            integer = draw.random() < 0.5
            low, high = sorted(draw.sample(values[::2] if integer else values, 2))
            ranges.append(Uniform(low=low, high=high, log=False, integer=integer))
        one = ranges[0]
        other = draw.choice([ranges[1], Choice(tuple(draw.sample(values, 2))), Constant(draw.choice(values))])
        shared = any(contains(one, value) and contains(other, value) for value in values)
        seen.add((type(other), shared))
        assert overlap(one, other) == shared, (one, other)
    assert len(seen) == 6


@pytest.mark.parametrize(
    "domain",
    [
        Choice((16, "x", None)),
        Uniform(low=0, high=0.9, log=False, integer=False),
        Uniform(low=1e-5, high=1e-2, log=True, integer=False),
        Uniform(low=1, high=4, log=True, integer=True),
    ],
)
def test_drawn_value_is_in_its_domain_and_asked_for_by_its_path(domain):
    draw = Spread(0)
    for _ in range(50):
        assert contains(domain, draw_value(domain, "a.b", draw))

    assert {asked[0] for asked in draw.asked} == {"a.b"}


def test_whole_numbers_are_drawn_as_ints_and_scales_are_passed_on():
    draw = Spread(0)

    assert type(draw_value(Uniform(low=1.0, high=4.0, log=True, integer=True), "n", draw)) is int
    assert type(draw_value(Uniform(low=1.0, high=4.0, log=False, integer=False), "x", draw)) is float
    assert draw.asked == [("n", 1, 4, True), ("x", 1.0, 4.0, False)]


def test_constant_is_never_asked_for():
    draw = Spread(0)

    assert draw_value(Constant(7), "a", draw) == 7
    assert draw.asked == []


def test_fixed_draw_gives_what_is_known_and_names_what_is_not():
    draw = FixedDraw({"x": 1, "n": 2.0, "c": None})

    assert draw.suggest_float("x", 0, 3) == 1.0
    assert draw.suggest_int("n", 0, 3) == 2
    assert draw.suggest_categorical("c", [None, 1]) is None
    with pytest.raises(KeyError, match="lacking"):
        draw.suggest_float("lacking", 0, 1)


def test_branch_is_listed_before_its_own_parameters_and_constants_not_at_all():
    choice, number = Choice((1, 2)), Uniform(low=0, high=1, log=False, integer=False)
    parameters = {
        "x": number,
        "fixed": Constant(1),
        "loss": Branch({"hinge": {"margin": number, "k": Constant(1)}, "wgan": {"gp": choice}}),
        "alone": Branch({"only": {"y": choice}}),
    }

    assert list(searched(parameters)) == [
        ("x", number),
        ("loss", parameters["loss"]),
        ("loss.hinge.margin", number),
        ("loss.wgan.gp", choice),
        ("alone.only.y", choice),
    ]


@pytest.mark.parametrize("text", ["log 1e-05..0.01", "int 2..4", "log int 1..8", "0..0.9"])
def test_range_is_shown_in_the_language_that_reads_it(text):
    assert str(read("number", text)) == text


def test_domains_are_shown_as_they_are_written():
    assert str(read("count", "[16, 32]")) == "[16, 32]"
    assert str(read("flag", "[true, false]")) == "[true, false]"
    assert str(read("norm", "batch")) == "batch"
    assert str(branch("[hinge, minimax]")) == "hinge | minimax"
