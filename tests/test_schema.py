import json
import random
import re
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from gantune import plugins, space
from gantune.cli.main import cli
from gantune.config import COMPONENTS, VALUES
from gantune.document import Problems, parse
from gantune.errors import GantuneError, SpecError
from gantune.plugins import names
from gantune.schema import schema
from gantune.sections import settings
from gantune.space import KNOWN, SECTIONS, load_space
from gantune.writing import dump

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "search_spaces").glob("*.yaml"), *(ROOT / "benchmarks").glob("*.yaml")])
SPACE = """\
version: 1
name: small
data: {dataset: digits, size: 16}
objective: {metric: fid, features: classifier, samples: {report: 1000}, constraints: [recall >= 0.2]}
budget: {trials: 24, hours: 1}
search: {sampler: tpe, scheduler: {asha: {first_rung: 0.25}}, seed: 0}
space:
  architecture: {choose: {dcgan: {width: [16, 32]}, mlp: {depth: int 2..4}}}
  loss: {choose: {hinge: {}, wgan_gp: {gp_weight: log 1..20}}}
  penalty: [none, r1]
  optimizer: {adam: {beta1: 0..0.9}}
  lr_g: log 1e-5..1e-2
  batch_size: [32, 64]
"""
BASELINE = """\
baseline:
  architecture: {dcgan: {width: 16}}
  loss: hinge
  penalty: none
  optimizer: {adam: {beta1: 0.5}}
  lr_g: 1e-4
  batch_size: 32
"""


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(json.loads(json.dumps(schema())))


@pytest.fixture
def read(tmp_path):
    """What the reader says of a text: None where it is a space, else its complaint."""

    def complaint(text):
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            load_space(path)
        except SpecError as error:
            return str(error)
        return None

    return complaint


def plain(node):
    """A parsed tree as plain values."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def values(text):
    return plain(parse(text, "space.yaml", Problems()))


def test_schema_is_valid_under_its_metaschema(validator):
    validator.check_schema(validator.schema)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_that_comes_with_gantune_is_accepted(file, validator):
    validator.validate(YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_resolved_space_of_every_file_is_accepted(file, validator):
    validator.validate(values(dump(load_space(file).document())))


# Whatever the reader accepts, the schema accepts

FRAGMENTS = [
    *("null", "true", "0", "1", "0.5", "1e-3", "64", "-1", "text", "[]", "[1]", "[1, 2]", "{}", "[null]"),
    *("0.1..0.9", "log 1e-4..1e-2", "int 2..8", " log  int 2 .. 8 ", "1_000..2_000", "none", "adam", "hinge"),
    *("[hinge, minimax]", "{choose: [hinge]}", "{hinge: }", "{wgan_gp: {}}", "{choose: {r1: , none: {}}}"),
    *("{adam: {beta1: 0.5}}", "{none: {}}", "asha", "{asha: }", "{asha: {spared: 0}}", "rgb", "bfloat16", "pixels"),
    *("recall >= 0.3", "[recall >= 0.3, modes <= 2]", "{rmsprop: {alpha: 0.9..0.99}}", "{choose: {cosine: {}}}"),
    *("{torchscript: {file: a}}", "gantune.losses:hinge", "{'gantune.losses:wgan_gp': {gp_weight: 1}}", "[dcgan, mlp]"),
]


def paths(tree, before=()):
    """The path of every value in a tree of plain values."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in entries:
        yield (*before, key)
        yield from paths(child, (*before, key))


def mutated(tree, draw):
    """One value replaced, or taken out, or one added under a name that the language has."""
    changed = json.loads(json.dumps(tree))
    path = draw.choice(list(paths(changed)))
    target = changed
    for key in path[:-1]:
        target = target[key]
    fragment = values(f"x: {draw.choice(FRAGMENTS)}")["x"]
    action = draw.choice(["replace", "replace", "remove", "add"])
    if action == "replace":
        target[path[-1]] = fragment
    elif action == "remove":
        del target[path[-1]]
    elif isinstance(target, dict):
        target[draw.choice(WORDS)] = fragment
    return changed


WORDS = [
    *KNOWN,
    *COMPONENTS,
    *VALUES,
    *dict.fromkeys(option for section in SECTIONS.values() for option in settings(section)),
]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_reader_accepts_the_schema_accepts(seed, validator, read):
    draw = random.Random(seed)
    trees = [values(SPACE), values(SPACE + BASELINE), values(FILES[0].read_text(encoding="utf-8"))]
    accepted = 0
    for _ in range(100):
        tree = draw.choice(trees)
        for _ in range(draw.randrange(1, 3)):
            tree = mutated(tree, draw)
        text = json.dumps(tree)
        if read(text) is None:
            accepted += 1
            assert validator.is_valid(tree), text
    assert accepted >= 10  # else the law was hardly tried


# What the schema rejects, the reader rejects, too

WRONG = [
    ("data:", "dta:"),
    ("size:", "sise:"),
    ("size: 16", "size: 4"),
    ("size: 16", "size: large"),
    ("data: {dataset: digits, size: 16}", "data: digits"),
    ("metric: fid", "metric: fud"),
    ("report: 1000", "report: 10"),
    ("recall >=", "recal >="),
    ("recall >= 0.2", "recall > 0.2"),
    ("features: classifier", "features: clasifier"),
    ("features: classifier", "features: torchscript"),
    ("features: classifier", "features: [classifier, rotation]"),
    ("trials: 24", "trials: 2.5"),
    ("hours: 1", "hours: 0"),
    ("{asha: {first_rung: 0.25}}", "ahsa"),
    ("first_rung: 0.25", "first_rung: 0"),
    ("first_rung:", "first_run:"),
    ("seed: 0", "seed: 0..3"),
    ("{hinge: {},", "{hing: {},"),
    ("gp_weight:", "gp_wieght:"),
    ("gp_weight: log 1..20", "gp_weight: log 1-20"),
    ("gp_weight: log 1..20", "gp_weight: 0"),
    ("width: [16, 32]", "width: [16, 2]"),
    ("width: [16, 32]", "width: [16, 16]"),
    ("width: [16, 32]", "width: []"),
    ("beta1: 0..0.9", "beta_1: 0..0.9"),
    ("  optimizer: {adam: {beta1: 0..0.9}}", "  optimizer: {adam: {}, sgd: {}}"),
    ("[none, r1]", "[none, r3]"),
    ("[none, r1]", "7"),
    ("  lr_g:", "  lr_x:"),
    ("  lr_g: log 1e-5..1e-2\n", ""),
    ("batch_size: [32, 64]", "batch_size: [32, many]"),
    ("version: 1", "version: 2"),
    ("name: small", "name: a/b"),
    ("loss: hinge", "loss: [hinge, wgan_gp]"),
    ("lr_g: 1e-4", "lr_g: 1e-5..1e-4"),
]


@pytest.mark.parametrize(("right", "wrong"), WRONG)
def test_wrong_file_is_rejected_by_the_schema_and_by_the_reader(right, wrong, validator, read):
    text = SPACE + BASELINE
    assert right in text
    harmed = text.replace(right, wrong)
    assert read(harmed) is not None
    assert not validator.is_valid(values(harmed))


def test_the_file_that_is_harmed_is_right(validator, read):
    assert validator.is_valid(values(SPACE + BASELINE))
    assert read(SPACE + BASELINE) is None


# Nothing is listed twice


def test_every_section_component_and_option_is_in_the_schema():
    whole = schema()
    assert list(whole["properties"]) == list(KNOWN)
    for key, section in SECTIONS.items():
        assert list(whole["properties"][key]["properties"]) == list(settings(section))
    assert list(whole["properties"]["space"]["properties"]) == [*COMPONENTS, *VALUES]
    for kind in COMPONENTS.values():
        for name in names(kind):
            block = whole["$defs"][f"{kind}.{name}"]["properties"]
            assert list(block) == list(plugins.options(plugins.resolve(kind, name)))


RULE = {"forbid": {"loss": "hinge", "lr_g": "1e-3..1e-2"}, "why": "it swings"}


def test_rules_first_configurations_and_extending_files_are_known(validator):
    tree = values(SPACE)
    given = {"loss": "hinge", "lr_g": 1e-3}
    assert validator.is_valid({**tree, "rules": [RULE], "first": [given, given]})
    assert validator.is_valid({"extends": "other.yaml", "space": {"penalty": None, "lr_g": 1e-3}, "rules": None})
    for wrong in ({"rules": RULE}, {"rules": [{"forbid": {}}]}, {"first": given}, {"first": [{"lr_g": [1e-3, 1e-2]}]}):
        assert not validator.is_valid({**tree, **wrong})
    assert not validator.is_valid({"space": {"lr_g": 1e-3}, "version": 1})


def test_a_word_that_only_the_reader_knows_may_hold_anything(monkeypatch, validator):
    monkeypatch.setitem(space.KNOWN, "later", None)
    tree = {**values(SPACE), "later": [{"a": 1}]}
    assert jsonschema.Draft202012Validator(schema()).is_valid(tree)
    assert not validator.is_valid(tree)


def test_examples_and_defaults_are_accepted_where_they_stand(validator):
    tried = 0

    def try_each(part):
        nonlocal tried
        if isinstance(part, list):
            for item in part:
                try_each(item)
        if not isinstance(part, dict):
            return
        own = validator.evolve(schema={**part, "$defs": validator.schema["$defs"]})
        shown = part["examples"] if isinstance(part.get("examples"), list) else []
        default = [part["default"]] if {"default", "description"} <= set(part) and "properties" not in part else []
        for value in [*shown, *default]:
            tried += 1
            assert own.is_valid(value), (part, value)
        for item in part.values():
            try_each(item)

    try_each(validator.schema)
    assert tried > 50


def test_options_are_described_by_their_own_sentences():
    parts = schema()["properties"]
    assert parts["collapse"]["properties"]["warmup"]["description"].startswith("`warmup` is a fraction")
    assert "number above 0" in parts["space"]["properties"]["lr_g"]["description"]


# The command


def test_command_prints_or_writes_the_schema(tmp_path):
    printed = CliRunner().invoke(cli, ["schema"])
    assert json.loads(printed.output) == schema()
    written = CliRunner().invoke(cli, ["schema", "--out", str(tmp_path / "s.json")])
    assert re.search(r"yaml-language-server: \$schema=\S+s\.json", written.output)
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == schema()
    refused = CliRunner().invoke(cli, ["schema", "--out", str(tmp_path / "s.json" / "below.json")])
    assert isinstance(refused.exception, GantuneError)
