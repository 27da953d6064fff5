import re

import pytest

from gantune import plugins
from gantune.config import VALUES, TrialConfig
from gantune.document import Problems, parse
from gantune.domains import Choice, Uniform, contains, read_domain

PLAIN = ("none", "constant", "auto", "classifier", "pixels", "torchscript")  # nothing to cite
BUILT_IN = [(kind, name) for kind in plugins.BUILTIN for name in plugins.BUILTIN[kind]]
OPTIONS = {
    **{
        f"{kind}.{name}.{option.name}": option
        for kind, name in BUILT_IN
        for option in plugins.options(plugins.resolve(kind, name)).values()
    },
    **{name: plugins.options(TrialConfig)[name] for name in VALUES},
}
RECOMMENDED = {path: option for path, option in OPTIONS.items() if option.works}

each_component = pytest.mark.parametrize(("kind", "name"), BUILT_IN)
each_recommended = pytest.mark.parametrize("path", RECOMMENDED)


def domain_of(option):
    """The recommendation, read as a space file is."""
    problems = Problems()
    node = parse(f"{option.name}: {option.works}", "f", problems).entries[option.name]
    domain = read_domain(node, option, problems)
    problems.raise_if_any()
    return domain


@each_recommended
def test_recommended_domain_can_be_written_into_a_space_and_holds_only_values_that_are_accepted(path):
    option = RECOMMENDED[path]
    domain = domain_of(option)
    if isinstance(domain, Uniform):
        assert domain.integer == (option.kind is int)
        values = [option.kind(end) for end in (domain.low, domain.high)]
    else:
        values = domain.values if isinstance(domain, Choice) else [domain.value]
    for value in values:
        assert option.convert(value) == value
        assert type(option.convert(value)) is option.kind
        assert contains(domain, value)


def test_recommendations_are_found_at_all():
    assert {"loss.wgan_gp.gp_weight", "penalty.r1.every", "regularizer.lecam.decay", "lr_g"} <= set(RECOMMENDED)
    assert len(RECOMMENDED) > 40


@pytest.mark.parametrize("path", [path for path, option in OPTIONS.items() if option.numeric])
def test_every_number_has_bounds_and_a_recommended_domain(path):
    option = OPTIONS[path]
    assert option.works
    assert (option.bounds.low, option.bounds.above) != (None, None)


@pytest.mark.parametrize("path", [path for path, option in OPTIONS.items() if not option.required])
def test_default_is_accepted_by_its_option(path):
    option = OPTIONS[path]
    assert option.convert(option.default) == option.default


@each_component
def test_component_says_what_it_is_in_a_line_of_its_own_and_where_it_comes_from(kind, name):
    text = plugins.resolve(kind, name).__doc__ or ""  # of a class this is never its parent's
    assert text.partition("\n")[0].rstrip().endswith(".")
    assert name in PLAIN or re.search(r"\b(19|20)\d\d\b", text)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in BUILT_IN if kind not in ("architecture", "dataset", "features")]
)
def test_component_is_built_from_its_defaults_and_twice_alike(kind, name):
    factory = plugins.resolve(kind, name)
    first, second = factory(), factory()
    assert type(first) is type(second)
    assert (first is None) == (name == "none")
