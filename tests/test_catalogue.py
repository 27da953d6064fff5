import itertools
import json
import re
import sys

import pytest
from click.testing import CliRunner

from gantune import plugins
from gantune.catalogue import TOPICS, Entry, catalogue
from gantune.cli import show
from gantune.cli.main import cli
from gantune.compatibility import rules
from gantune.config import VALUES, TrialConfig
from gantune.document import Problems, parse
from gantune.domains import Constant, read_domain
from gantune.metrics.reference import METRICS

FRESH = itertools.count()
NAMED = [topic for topic in show.TOPICS if topic != "parameters"]
COMPONENTS = [(topic, kind, name) for topic, kind in TOPICS.items() for name in plugins.BUILTIN[kind]]
REFUSING = [item for item in COMPONENTS if rules(plugins.resolve(*item[1:]))]

each_topic = pytest.mark.parametrize("topic", show.TOPICS)
each_component = pytest.mark.parametrize(("topic", "kind", "name"), COMPONENTS)


def shown(*arguments):
    """What `gantune show` prints, and leaves with."""
    result = CliRunner().invoke(cli, ["show", *arguments])
    return result.exit_code, result.output


def blocks(topic):
    """What is printed of each entry, by name, line by line."""
    code, text = shown(topic)
    assert code == 0, text
    found = [block.splitlines() for block in text.rstrip("\n").split("\n\n")]
    assert len({lines[0] for lines in found}) == len(found)
    return {lines[0]: lines[1:] for lines in found}


def flowing(lines):
    """Text without the breaks that fit it to a terminal."""
    return " ".join(" ".join(lines).split())


def line_of(option, lines):
    (found,) = [line for line in lines if re.match(rf"    {option.name}  ", line) or line.split()[0] == option.name]
    return flowing([found])


def read_back(option, text):
    """What a space file makes of the words that a default is shown in."""
    problems = Problems()
    domain = read_domain(parse(f"{option.name}: {text}", "f", problems).entries[option.name], option, problems)
    problems.raise_if_any()
    assert isinstance(domain, Constant)
    return domain.value


def assert_tells(option, line):
    """An option's line says what it accepts, its default as a space file would have it, and what is known to work."""
    assert line.startswith(f"{option.name} {option.expected()}; ")
    if option.required:
        assert "no default" in line
    elif option.default is None:
        assert "may be left out" in line
    else:
        assert read_back(option, re.search(r"; default ([^;]+)", line)[1]) == option.default
    assert line.endswith(f"; works in {option.works}") == bool(option.works)


# What is listed


def test_topics_of_the_command_are_those_of_the_catalogue():
    assert (*TOPICS, "metrics", "parameters") == show.TOPICS


def test_every_built_in_component_is_in_exactly_one_topic():
    listed = [(TOPICS[topic], entry.name) for topic in TOPICS for entry in catalogue(topic)]
    assert sorted(listed) == sorted((kind, name) for kind in plugins.BUILTIN for name in plugins.BUILTIN[kind])


@each_component
def test_entry_tells_its_components_own_text_options_and_rules(topic, kind, name):
    factory = plugins.resolve(kind, name)
    (entry,) = [entry for entry in catalogue(topic) if entry.name == name]
    assert entry.options == tuple(plugins.options(factory).values())
    assert entry.refuses == tuple(str(rule) for rule in rules(factory))
    assert flowing([entry.about]) == flowing([factory.__doc__])


@pytest.mark.parametrize("topic", NAMED)
def test_every_entry_is_described_in_a_sentence(topic):
    for entry in catalogue(topic):
        assert re.match(r"\S.*\.", entry.about), entry.name


@pytest.mark.parametrize("name", METRICS)
def test_metric_says_where_it_comes_from_or_that_it_is_named_here(name):
    (entry,) = [entry for entry in catalogue("metrics") if entry.name == name]
    assert re.search(r"\b(19|20)\d\d\b", entry.about) or f"`{name}`" in entry.about


def test_parameters_are_the_plain_values_of_a_space():
    entries = {entry.name: entry for entry in catalogue("parameters")}
    assert list(entries) == list(VALUES)
    declared = plugins.options(TrialConfig)
    assert all(entry.options == (declared[name],) for name, entry in entries.items())


# What is printed


@each_topic
def test_text_names_every_entry_in_order(topic):
    if topic == "parameters":
        code, text = shown(topic)
        assert code == 0
        assert [line.split()[0] for line in text.splitlines() if line.strip()] == list(VALUES)
    else:
        assert list(blocks(topic)) == [entry.name for entry in catalogue(topic)]


@pytest.mark.parametrize("topic", NAMED)
def test_text_tells_of_every_entry_all_that_there_is_to_tell(topic):
    found = blocks(topic)
    for entry in catalogue(topic):
        lines = found[entry.name]
        assert flowing([entry.about]) in flowing(lines)
        for option in entry.options:
            assert_tells(option, line_of(option, lines))
        for rule in entry.refuses:
            assert f"! {rule}" in flowing(lines)


def test_text_tells_of_every_parameter_all_that_there_is_to_tell():
    lines = shown("parameters")[1].splitlines()
    for name in VALUES:
        option = plugins.options(TrialConfig)[name]
        assert_tells(option, line_of(option, lines))


@each_topic
def test_text_fits_a_page_and_has_no_stray_ends(topic):
    for line in shown(topic)[1].splitlines():
        assert len(line) <= show.WIDTH + 10
        assert line == line.rstrip()


@each_topic
def test_json_is_the_catalogue_itself(topic):
    code, text = shown(topic, "--json")
    assert code == 0
    assert json.loads(text) == [entry.as_dict() for entry in catalogue(topic)]


@each_component
def test_json_keeps_defaults_in_their_own_type_and_works_as_a_space_writes_it(topic, kind, name):
    (entry,) = [entry for entry in json.loads(shown(topic, "--json")[1]) if entry["name"] == name]
    for option in plugins.options(plugins.resolve(kind, name)).values():
        told = entry["options"][option.name]
        assert told["accepts"] == option.expected()
        assert told["works"] == (option.works or None)
        if option.required:
            assert told["default"] is None
        else:
            assert (type(told["default"]), told["default"]) == (type(option.default), option.default)


def test_rules_are_found_at_all():
    assert {("losses", "loss", "wgan_gp"), ("penalties", "penalty", "r1"), ("optimizers", "optimizer", "sgd")} <= set(
        REFUSING
    )


@pytest.mark.parametrize(("topic", "kind", "name"), REFUSING)
def test_rule_says_what_is_refused_why_and_what_would_help(topic, kind, name):
    printed = flowing(blocks(topic)[name])
    for rule in rules(plugins.resolve(kind, name)):
        assert f": {rule.why}; {rule.fix}" in printed
        assert all(path in printed for path in rule.where)


# What is asked for wrongly, and what is broken


@pytest.mark.parametrize("arguments", [["loss"], ["optimiser"], [], ["losses", "more"], [""]])
def test_unknown_topic_is_a_usage_error(arguments):
    code, text = shown(*arguments)
    assert code == 2
    assert "Usage: " in text


def test_unknown_topic_is_answered_with_the_known_ones():
    text = shown("qqq")[1]
    assert all(topic in text for topic in show.TOPICS)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package on the path that registers losses: the text of its module, and what it registers."""

    def install(text, **points):
        module = f"own_catalogue_{next(FRESH)}"
        (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
        listed = "".join(f"{name} = {target.format(module=module)}\n" for name, target in points.items())
        (folder / "entry_points.txt").write_text(f"[gantune.loss]\n{listed}", encoding="utf-8")

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    for name in [name for name in sys.modules if name.startswith("own_catalogue_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "target", "reason"),
    [
        ("", "no_such_module:critic", "No module named 'no_such_module'"),
        ("", "{module}:critic", "AttributeError"),
        ("1 / 0\n", "{module}:critic", "ZeroDivisionError"),
        ("raise SystemExit(2)\n", "{module}:critic", "SystemExit: 2"),
        ("critic = 7\n", "{module}:critic", "is not a function"),
        ("def critic(*, k: list = []): ...\n", "{module}:critic", "option `k` of `critic`"),
        ("def critic(*, k: 'Nowhere' = 1): ...\n", "{module}:critic", "cannot be read"),
    ],
)
def test_broken_component_of_an_installed_package_is_listed_as_unusable_beside_the_rest(
    installed, text, target, reason
):
    installed(text, broken=target)
    installed("def critic(*, margin: float = 1.5):\n    'A critic of ones own.'\n", sound="{module}:critic")
    entries = {entry.name: entry for entry in catalogue("losses")}
    assert list(entries) == [*plugins.BUILTIN["loss"], "broken", "sound"]
    assert entries["broken"].about.startswith("cannot be used: ")
    assert reason in entries["broken"].about
    assert entries["broken"].options == ()
    assert not any(entry.about.startswith("cannot be used") for name, entry in entries.items() if name != "broken")

    printed = blocks("losses")
    assert "cannot be used: " in flowing(printed["broken"])
    assert "margin a number; default 1.5" in flowing(printed["sound"])
    assert shown("losses", "--json")[0] == 0
    assert "sound" not in [entry.name for entry in catalogue("penalties")]


def test_component_without_a_docstring_is_listed_as_not_described(installed):
    installed("def critic(): ...\n", silent="{module}:critic")
    assert flowing(blocks("losses")["silent"]) == "no description"


def test_name_that_an_installed_package_takes_from_a_built_in_one_is_listed_once(installed):
    installed("def critic(): ...\n", hinge="{module}:critic")
    entries = [entry for entry in catalogue("losses") if entry.name == "hinge"]
    assert [entry.about for entry in entries] == [plugins.resolve("loss", "hinge").__doc__]


def test_entry_without_anything_to_tell_is_still_whole():
    assert Entry(name="x", about="y").as_dict() == {"name": "x", "about": "y", "options": {}, "refuses": []}
