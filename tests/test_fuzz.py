"""Generated and mutated space files: each gives located messages or a plan, and nothing is started or written."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gantune.cli.check import command
from gantune.domains import RandomDraw
from gantune.errors import SpecError
from gantune.space import load_space

SHIPPED = Path(__file__).parent.parent / "search_spaces"
HEAD = re.compile(r"^\S[^\n]*?:\d+:\d+  \S", re.MULTILINE)
COUNT = re.compile(r"(\d+) errors?\. Nothing was started\.")
TINY = {
    "version": 1,
    "extends": "parent.yaml",
    "budget": {"trials": 4, "samples_per_trial": 2000},
    "space": {
        "architecture": {"mlp": {"hidden": [8, 16], "depth": "int 1..3"}},
        "loss": {"choose": {"hinge": {}, "wgan_gp": {"gp_weight": "log 1..100"}}},
        "optimizer": "adam",
        "lr_g": "log 1e-4..1e-2",
        "batch_size": [32, 64],
    },
    "rules": [{"forbid": {"loss": "wgan_gp", "batch_size": 64}, "why": "slow"}],
    "baseline": {"architecture": {"mlp": {"hidden": 8, "depth": 2}}, "loss": "hinge", "lr_g": 1e-3, "batch_size": 32},
    "first": [{"architecture": {"mlp": {"hidden": 16, "depth": 1}}, "loss": "hinge", "lr_g": 1e-3, "batch_size": 64}],
}
PARENT = {"version": 1, "name": "parent", "search": {"scheduler": {"asha": {"first_rung": 0.5}}, "seed": 3}}
BASES = [
    *([TINY] * 6),
    {**TINY, "extends": "file.yaml"},
    *(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) for path in sorted(SHIPPED.glob("*.yaml"))),
]
RANGES = ("1..0", "0..0", "log 0..1", "log -1..1", "int 0.5..2", "1e-5..", "..", "int log 1..8", "nan..inf", "1...2")
NAMES = ("architectur", "los", "choose", "mlp", "Hinge", "wgan_gp", "extends", "version", "rules", "why", "spared")
WORDS = ("1e999", "-1e400", "0x1F", "0o17", "1_000", "off", "yes", "~", ".nan", "2026-11-23", "<<", "=", "", "a:b")
ODD = ("\u202e", "\u00a0", "\u2028", "\ufeff", "e\u0301", "\U0001f600", "\u0000", "\u0085", "\ud7ff", "ß", "\uff11")
SNIPPETS = (
    "<<: *one",
    "one: &one {two: *one}",
    "space: !!python/object:os.system {}",
    "budget: !!int {trials: 3}",
    "version: !!str 1",
    "version: 1",
    "\tversion: 1",
    "name: >-\n\n  x",
    "rules: &r [*r]",
    "? [a, b]\n: 1",
    "--- \nversion: 1",
    "%YAML 1.1",
    "baseline: &b {<<: [*b, {loss: hinge}]}",
    "first: [{}, null, 3, [first]]",
    "space: {loss: {choose: {hinge: {choose: {hinge: {}}}}}}",
)


def scalars():
    return st.one_of(
        st.sampled_from([None, True, False, 0, -1, 2, 10**30, -(10**400), 1e308, 5e-324, float("inf"), float("nan")]),
        st.sampled_from([*RANGES, *NAMES, *WORDS, *ODD]),
        st.text(max_size=6),
    )


def values():
    return st.recursive(
        scalars(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "0"]), inner, max_size=3),
        max_leaves=6,
    )


def deep(value, depth):
    """A value within blocks of `choose:`."""
    for level in range(depth):
        value = {"choose": {("hinge", "mlp")[level % 2]: value}}
    return value


def slots(node, found=()):
    """Every container of a tree with the keys that it has."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = [*found, *((node, key) for key, _ in children)]
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        found = slots(child, found)
    return found


def written(node):
    """A tree as YAML in one line, with numbers as they stand in YAML."""
    if isinstance(node, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {written(child)}" for key, child in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(written, node)) + "]"
    if isinstance(node, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(str(node), repr(node))
    if isinstance(node, str) and re.fullmatch(r"[\w.][\w. +-]*", node, re.ASCII):
        return node.strip()
    return json.dumps(node, ensure_ascii=False, default=str)


@st.composite
def texts(draw):
    """A document, some of its values, keys and lines changed for others."""
    tree = json.loads(json.dumps(draw(st.sampled_from(BASES))))
    for _ in range(draw(st.integers(0, 3))):
        where, key = draw(st.sampled_from(slots(tree)))
        how = draw(st.sampled_from(["value", "value", "misspell", "drop", "nest", "move", "list"]))
        if (isinstance(where, list) and key >= len(where)) or (isinstance(where, dict) and key not in where):
            continue
        if how == "value":
            where[key] = draw(values())
        elif how == "nest":
            where[key] = deep(where[key], draw(st.sampled_from([1, 2, 5, 30])))
        elif how == "list":
            where[key] = [where[key], where[key]]
        elif how == "drop":
            del where[key]
        elif isinstance(where, dict):
            name = key[:-1] + draw(st.sampled_from(["", "x", "\u0435", " "])) if how == "misspell" else None
            where[name if name is not None else draw(st.sampled_from([*NAMES, *TINY]))] = where.pop(key)
    lines = [f"{json.dumps(str(key), ensure_ascii=False)}: {written(child)}" for key, child in tree.items()]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(lines)))
        how = draw(st.sampled_from(["snippet", "double", "odd", "tab", "cut", "anchor"]))
        line = lines[at] if at < len(lines) else ""
        place = draw(st.integers(0, len(line)))
        if how == "snippet":
            lines.insert(at, draw(st.sampled_from(SNIPPETS)))
        elif how == "double":
            lines.insert(at, line)
        elif at < len(lines):
            put = {"odd": draw(st.sampled_from(ODD)), "tab": "\t", "cut": "", "anchor": " &a *a "}[how]
            lines[at] = line[:place] + put + ("" if how == "cut" else line[place:])
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("spaces")
    (place / "parent.yaml").write_text(written(PARENT), encoding="utf-8")
    return place


def located(message):
    """Whether a refusal says where each error is, and how many there are."""
    count = COUNT.fullmatch(message.splitlines()[-1])
    return count is not None and len(HEAD.findall(message)) >= int(count[1]) > 0


def planned(path):
    """A space that can be drawn from, or the words in which it was refused."""
    try:
        space = load_space(path)
    except SpecError as error:
        return None, str(error)
    for seed in range(3):
        space.conflict(space.draw(RandomDraw(seed), seed=0))
    assert space.rungs() == sorted(set(space.rungs()))
    return space, None


@settings(
    max_examples=2000,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(text=texts(), checked=st.integers(0, 9))
def test_any_document_is_a_plan_or_located_messages(folder, text, checked):
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    before = sorted(folder.rglob("*"))
    space, refusal = planned(path)
    assert refusal is None or located(refusal), refusal
    if not checked:
        result = CliRunner().invoke(command, [str(path)])
        assert isinstance(result.exception, SpecError) if space is None else result.exception is None, result.exception
        assert result.output.endswith("OK. Nothing was started.\n") or space is None
    assert sorted(folder.rglob("*")) == before
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
