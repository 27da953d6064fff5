import json
import random
import re
import signal
from contextlib import contextmanager

import pytest

from gantune.document import Place, Problems, load, parse
from gantune.errors import SpecError

KNOWN = dict.fromkeys(["version", "data", "budget", "space"])


def read(text):
    return parse(text, "file.yaml", Problems())


def refusal(text):
    with pytest.raises(SpecError) as caught:
        read(text)
    return str(caught.value)


def complaint(text):
    try:
        read(text)
    except SpecError as error:
        return str(error)
    return None


def laid_over(tmp_path, text, *overrides):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides, Problems(), KNOWN)


def refused_override(tmp_path, text, *overrides):
    with pytest.raises(SpecError) as caught:
        laid_over(tmp_path, text, *overrides)
    return str(caught.value)


def refused_override_or_none(tmp_path, override):
    try:
        laid_over(tmp_path, "space: {loss: {choose: {gp: {weight: 1}, hinge: {}}}, lr: 1}", override)
    except SpecError as error:
        return str(error)
    return None


def plain(node):
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def underlined(text):
    """What the carets of an error stand under, after checking that its heads give the same columns."""
    lines, words = text.splitlines(), []
    for head, shown, pointer in zip(lines, lines[1:], lines[2:], strict=False):
        carets = re.fullmatch(r" +\| ( *)(\^+).*", pointer)
        if carets:
            line, column = re.match(r".*?:(\d+):(\d+)  ", head).groups()
            assert int(column) == len(carets[1]) + 1
            assert shown.split(" | ")[0].strip() == line
            words.append(shown[carets.start(2) : carets.end(2)])
    return words


@contextmanager
def within(seconds):
    def stop(*_):
        raise AssertionError(f"still not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("1_000.5", 1000.5),
        ("60_000", 60_000),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
        ("log 1..2", "log 1..2"),
        ("none", "none"),
        ("!!str 7", "7"),
        ("!!float 7", 7.0),
    ],
)
def test_scalar_has_the_value_and_type_of_yaml_1_2(text, value):
    got = read(f"key: {text}").entries["key"].value

    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("text", ["off", "on", "yes", "No", "y", "12:30:00", "2024-05-01", "="])
def test_what_only_yaml_1_1_knows_is_text(text):
    assert read(f"key: {text}").entries["key"].value == text


@pytest.mark.parametrize(("text", "value"), [(".inf", "inf"), ("-.inf", "-inf"), (".nan", "nan")])
def test_numbers_that_are_not_finite_are_still_numbers_to_the_reader(text, value):
    got = read(f"key: {text}").entries["key"].value

    assert isinstance(got, float)
    assert str(got) == value


@pytest.mark.parametrize("text", ["!!int x", "!!float x", "!!bool yes", "!!bool 1"])
def test_explicit_tag_does_not_bend_a_value(text):
    error = refusal(f"key: {text}")

    assert error.startswith("file.yaml:1:6  ")
    assert underlined(error) == [text]


@pytest.mark.parametrize("text", ["!mine x", "!!python/name:os.system x", "!!python/object:a.B {}", "!mine [1]"])
def test_unknown_tag_is_refused_where_it_stands(text):
    error = refusal(f"a: 1\nkey: {text}")

    assert error.startswith("file.yaml:2:6  unknown tag ")
    assert "write a plain value" in error


def test_every_value_knows_its_place_and_its_key():
    root = read("a: 1\nblock:\n  name: [x, long]\n")
    block = root.entries["block"]
    name = block.entries["name"]

    assert root.entries["a"].place == Place("file.yaml", 0, 3, 1)
    assert block.key == Place("file.yaml", 1, 0, 5)
    assert name.key == Place("file.yaml", 2, 2, 4)
    assert [item.place for item in name.value] == [Place("file.yaml", 2, 9, 1), Place("file.yaml", 2, 12, 4)]


@pytest.mark.parametrize(
    "text", ["a: 1\nempty:\nb: 2", "a: 1\nempty:", "a: 1\nempty:\n", "a: 1\nempty:  # soon\n\n# more\nb: 2"]
)
def test_missing_value_stands_on_the_line_of_its_key(text):
    empty = read(text).entries["empty"]

    assert empty.value is None
    assert empty.place.line == 1


def test_key_given_twice_is_refused_at_the_second():
    error = refusal("a: 1\nb: 2\na: 3")

    assert error == (
        "file.yaml:3:1  `a` is given twice\n   3 | a: 3\n     | ^ keep one of them\n1 error. Nothing was started."
    )


@pytest.mark.parametrize("text", ["? [a, b]\n: 1", "{a: 1}: 2", "[x]: 1"])
def test_key_that_is_not_a_name_is_refused(text):
    assert "a key must be a plain name" in refusal(text)


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("a: [1, 2", "1:9", "expected ',' or ']'"),
        ("a: 1\n b: 2", "2:3", "mapping values are not allowed here"),
        ("a: 'x", "1:6", "found unexpected end of stream"),
        ("a: 1\n\tb: 2", "2:1", "cannot start any token"),
        ("a: @x", "1:4", "cannot start any token"),
        ("a: 1\nb: *far", "2:4", "found undefined alias 'far'"),
        ("a: 1\n---\nb: 2", "2:1", "another document"),
        ("a: 1\nb: x\0y", "2:5", "special characters are not allowed"),
        ("a: \x1b", "1:4", "special characters are not allowed"),
        ("%YAML 9.9\n---\na: 1", "1:1", "incompatible YAML document"),
    ],
)
def test_what_is_not_yaml_is_said_with_its_place(text, where, reason):
    error = refusal(text)

    assert error.startswith(f"file.yaml:{where}  not valid YAML: ")
    assert reason in error
    assert error.endswith("1 error. Nothing was started.")


@pytest.mark.parametrize("escape", [r"\q", r"\x1", r"\uZZZZ", r"\U00110000", r"\UFFFFFFFF"])
def test_escape_that_names_no_character_is_not_yaml(escape):
    assert re.match(r"file\.yaml:1:\d+  not valid YAML: ", refusal(f'a: "{escape}"'))


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n# comments\n"])
def test_file_without_content_is_said_to_be_empty(text):
    assert refusal(text).startswith("file.yaml:1:1  the file is empty\n")


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "a: &a {b: *a}", "&root {a: *root}", "a: &a [*a, *a, *a, *a]", "a: &a [{b: *a}, {c: *a}, {d: *a}]"],
)
def test_alias_that_contains_itself_is_refused_at_once(text):
    with within(5):
        error = refusal(text)

    assert re.match(r"file\.yaml:1:\d+  ", error)
    assert "an alias must not contain itself" in error


def test_aliases_that_unfold_without_end_are_refused_at_once():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [" + ", ".join([f"*{last}"] * 9) + "]"
        for last, name in zip("abcdefg", "bcdefgh", strict=True)
    ]
    with within(5):
        error = refusal("\n".join(lines))

    assert re.match(r"file\.yaml:\d+:\d+  ", error)


def test_alias_is_the_value_of_its_anchor():
    assert plain(read("a: &x {b: 1}\nc: *x")) == {"a": {"b": 1}, "c": {"b": 1}}


def test_merge_key_is_an_ordinary_key():
    assert plain(read("a: &x {b: 1}\nc: {<<: *x}")) == {"a": {"b": 1}, "c": {"<<": {"b": 1}}}


@pytest.mark.parametrize("text", ["[" * 2000, "[" * 2000 + "]" * 2000, "{a: " * 2000, "[" * 30 + "]" * 30])
def test_very_deep_nesting_is_refused_and_not_a_crash(text):
    assert re.match(r"file\.yaml:1:\d+  ", refusal(f"a: {text}"))


def test_random_text_is_a_tree_or_a_located_refusal():
    draw = random.Random(0)
    alphabet = "ab:-?[]{},&*!|>'\"%@`#~<=. \n\t01eé\0"
    for _ in range(300):
        text = "".join(draw.choices(alphabet, k=draw.randrange(1, 40)))
        told = complaint(text)
        assert told is None or re.match(r"file\.yaml:\d+:\d+  ", told), text


def test_missing_file_is_a_refusal_with_its_path_and_reason(tmp_path):
    with pytest.raises(SpecError, match=r"absent\.yaml: cannot be read: No such file.* Nothing was started\."):
        load(tmp_path / "absent.yaml", (), Problems(), KNOWN)


def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(SpecError, match=r"cannot be read: Is a directory\. Nothing was started\."):
        load(tmp_path, (), Problems(), KNOWN)


@pytest.mark.parametrize("content", [bytes(range(256)), "a: 1\n".encode("utf-16"), b"a: \xff"])
def test_bytes_that_are_not_utf_8_are_refused(tmp_path, content):
    path = tmp_path / "file.yaml"
    path.write_bytes(content)

    with pytest.raises(SpecError, match=r"file\.yaml: cannot be read: not UTF-8 text"):
        load(path, (), Problems(), KNOWN)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa: 1\nb: \xc3\xa9\n", b"a: 1\r\nb: \xc3\xa9\r\n"])
def test_byte_order_mark_and_windows_line_ends_make_no_difference(tmp_path, content):
    path = tmp_path / "file.yaml"
    path.write_bytes(content)

    assert plain(load(path, (), Problems(), KNOWN)) == {"a": 1, "b": "é"}


@pytest.mark.parametrize("text", ["- a\n- b", "text", "7", "null"])
def test_top_level_must_be_a_mapping(tmp_path, text):
    error = refused_override(tmp_path, text)

    assert "file.yaml:1:1  expected a mapping of sections" in error
    assert "start with `version: 1`" in error


def test_problems_are_told_in_reading_order_and_counted():
    problems = Problems()
    problems.texts["f"] = "one\ntwo words\n"
    problems.add(Place("f", 1, 4, 5), "second", "mend it")
    problems.add(Place("f", 0, 0, 3), "first")
    with pytest.raises(SpecError) as caught:
        problems.raise_if_any()

    assert str(caught.value) == (
        "f:1:1  first\n"
        "   1 | one\n"
        "     | ^^^\n"
        "f:2:5  second\n"
        "   2 | two words\n"
        "     |     ^^^^^ mend it\n"
        "2 errors. Nothing was started."
    )


def test_problem_noted_twice_is_told_once():
    problems = Problems()
    for _ in range(2):
        problems.add(Place("f"), "wrong")
    with pytest.raises(SpecError, match=r"1 error\. Nothing"):
        problems.raise_if_any()


def test_no_problem_raises_nothing():
    Problems().raise_if_any()


def test_carets_stay_inside_their_line():
    problems = Problems()
    problems.texts["f"] = "short"
    problems.add(Place("f", 0, 2, 99), "wrong")
    with pytest.raises(SpecError) as caught:
        problems.raise_if_any()

    assert underlined(str(caught.value)) == ["ort"]


def test_place_beyond_the_text_is_still_told_with_its_remedy():
    problems = Problems()
    problems.texts["f"] = "one"
    problems.add(Place("f", 7, 3), "wrong", "mend it")
    with pytest.raises(SpecError, match=r"f:8:4  wrong\n  mend it\n1 error"):
        problems.raise_if_any()


def test_override_replaces_what_the_file_says(tmp_path):
    root = laid_over(tmp_path, "data: {size: 8, dataset: digits}", "data.size=16")

    assert plain(root) == {"data": {"size": 16, "dataset": "digits"}}


def test_override_makes_the_sections_that_the_file_lacks(tmp_path):
    root = laid_over(tmp_path, "version: 1", "budget.a.b=1e-4", "data={x: [1, 2]}")

    assert plain(root) == {"version": 1, "budget": {"a": {"b": 1e-4}}, "data": {"x": [1, 2]}}


def test_override_that_starts_with_no_section_is_a_parameter_of_the_space(tmp_path):
    root = laid_over(tmp_path, "space: {lr: 1}", "lr=2", "other.inner=3")

    assert plain(root) == {"space": {"lr": 2, "other": {"inner": 3}}}


@pytest.mark.parametrize(
    "override",
    ["loss.gp.weight=2", "space.loss.gp.weight=2", "loss.choose.gp.weight=2", "space.loss.choose.gp.weight=2"],
)
def test_override_walks_through_choose_by_a_parameters_own_path(tmp_path, override):
    root = laid_over(tmp_path, "space: {loss: {choose: {gp: {weight: 1, steps: 5}, hinge: {}}}}", override)

    assert plain(root) == {"space": {"loss": {"choose": {"gp": {"weight": 2, "steps": 5}, "hinge": {}}}}}


def test_last_override_wins(tmp_path):
    assert plain(laid_over(tmp_path, "version: 1", "data.x=1", "data.x=2"))["data"] == {"x": 2}


@pytest.mark.parametrize(
    ("override", "value"), [("data.x=", None), ("data.x=a=b", "a=b"), ("data.x= 7", 7), ("data.x='7'", "7")]
)
def test_override_takes_everything_after_the_first_equals_sign_as_yaml(tmp_path, override, value):
    assert plain(laid_over(tmp_path, "version: 1", override))["data"]["x"] == value


def test_overridden_value_stands_in_the_argument(tmp_path):
    size = laid_over(tmp_path, "data: {size: 8}", "data.size=[16, 32]").entries["data"].entries["size"]

    assert size.key == Place("--set data.size", 0, 0, 9)
    assert size.place == Place("--set data.size", 0, 10, 8)
    assert size.value[1].place == Place("--set data.size", 0, 15, 2)


@pytest.mark.parametrize("override", ["data.size", "=3", ".=3", "data..size=3", "data.=3", ".data=3", ""])
def test_bad_path_is_refused_with_an_example(tmp_path, override):
    error = refused_override(tmp_path, "version: 1", override)

    assert error.startswith(f"--set {override.partition('=')[0]}:1:1  expected path=value\n")
    assert "for example --set budget.trials=8" in error
    assert error.endswith("1 error. Nothing was started.")


@pytest.mark.parametrize(
    ("value", "column", "reason"),
    [
        ("[1", 10, "expected ',' or ']'"),
        ("[1, *x]", 12, "undefined alias"),
        ("@x", 8, "cannot start any token"),
        ("a\0", 9, "special characters"),
    ],
)
def test_override_that_is_not_yaml_is_refused_at_its_place_in_the_argument(tmp_path, value, column, reason):
    error = refused_override(tmp_path, "version: 1", f"data.x={value}")

    assert error.startswith(f"--set data.x:1:{column}  not valid YAML: ")
    assert reason in error
    assert f"\n   1 | data.x={value}\n" in error


def test_bad_overrides_are_told_together(tmp_path):
    error = refused_override(tmp_path, "version: 1", "one", "data.x={a: 1, a: 2}", "..=2")

    assert underlined(error) == ["..=2", "a", "one"]
    assert error.endswith("3 errors. Nothing was started.")


def test_random_override_is_laid_over_or_refused_at_the_argument(tmp_path):
    draw = random.Random(0)
    words = ["space", "loss", "choose", "gp", "data", "own", "a:b", "lr", "", "x"]
    for _ in range(200):
        path = ".".join(draw.choices(words, k=draw.randrange(1, 5)))
        override = path + draw.choice(["=1", "={a: 1}", "=[1", "=", "", "=*x", "=\t"])
        told = refused_override_or_none(tmp_path, override)
        assert told is None or re.match(rf"--set {re.escape(path)}:1:\d+  ", told), override


# Files that extend others


def merged(under, over):
    """What is asked of merging, in its shortest form."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {key: merged(under.get(key), over.get(key, under.get(key))) for key in {**under, **over}}


@pytest.fixture
def layered(tmp_path):
    """Loads the first of some files, each laid over the next."""

    def layer(*texts, overrides=()):
        for number, text in enumerate(texts):
            line = f"extends: {number + 1}.yaml\n" if number + 1 < len(texts) else ""
            (tmp_path / f"{number}.yaml").write_text(line + text, encoding="utf-8")
        return load(tmp_path / "0.yaml", overrides, Problems(), KNOWN)

    return layer


def refused_chain(path, *overrides):
    with pytest.raises(SpecError) as caught:
        load(path, overrides, Problems(), KNOWN)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("over", "under", "merged"),
    [
        ("a: 1", "b: 2", {"b": 2, "a": 1}),
        ("a: 1", "a: 2", {"a": 1}),
        ("a: {x: 1}", "a: {y: 2, x: 3}", {"a": {"y": 2, "x": 1}}),
        ("a: {x: {y: {z: 1}}}", "a: {x: {y: {w: 2}}}", {"a": {"x": {"y": {"w": 2, "z": 1}}}}),
        ("a: [1]", "a: [2, 3]", {"a": [1]}),
        ("a: 1", "a: {x: 2}", {"a": 1}),
        ("a: {x: 2}", "a: 1", {"a": {"x": 2}}),
        ("a: null", "a: {x: 2}", {"a": None}),
        ("a: {x: null}", "a: {x: 2}", {"a": {"x": None}}),
        ("rules: [1]", "rules: [2, 3]", {"rules": [1]}),
        ("first: [{a: 1}]", "first: [{b: 2}]", {"first": [{"a": 1}]}),
        ("rules: null", "rules: [2]", {}),
        ("first: null", "first: [2]", {}),
        ("baseline: null", "baseline: {lr: 1}", {}),
        ("baseline: {lr: null}", "baseline: {lr: 1, size: 2}", {"baseline": {"size": 2}}),
        ("space: {lr: null}", "space: {lr: 1, size: 2}", {"space": {"size": 2}}),
        ("space: {lr: null}", "space: {size: 2}", {"space": {"size": 2, "lr": None}}),
        (
            "space: {loss: {choose: {gp: {weight: 1}, hinge: null, new: {}}}}",
            "space: {loss: {choose: {hinge: {}, gp: {weight: 5, steps: 2}}}}",
            {"space": {"loss": {"choose": {"gp": {"weight": 1, "steps": 2}, "new": {}}}}},
        ),
        (
            "space: {opt: {adam: {b: 1}}}",
            "space: {opt: {adam: {a: 2}}}",
            {"space": {"opt": {"adam": {"a": 2, "b": 1}}}},
        ),
        ("space: {opt: {adam: {b: 1}}}", "space: {opt: {sgd: {a: 2}}}", {"space": {"opt": {"adam": {"b": 1}}}}),
        ("space: {opt: {adam: {}}}", "space: {opt: {choose: {sgd: {}, adam: {}}}}", {"space": {"opt": {"adam": {}}}}),
        ("space: {opt: sgd}", "space: {opt: {choose: {sgd: {}, adam: {}}}}", {"space": {"opt": "sgd"}}),
        ("baseline: {opt: {adam: {}}}", "baseline: {opt: {sgd: {}}}", {"baseline": {"opt": {"adam": {}}}}),
        (
            "search: {scheduler: {b: {}}}",
            "search: {seed: 1, scheduler: {a: {}}}",
            {"search": {"seed": 1, "scheduler": {"b": {}}}},
        ),
        ("objective: {features: {b: {}}}", "objective: {features: {a: {}}}", {"objective": {"features": {"b": {}}}}),
        ("name: own", "name: theirs", {"name": "own"}),
        ("a: 1", "name: theirs", {"a": 1}),
    ],
)
def test_file_is_laid_over_the_one_that_it_extends(layered, over, under, merged):
    assert plain(layered(over, under)) == merged


def test_file_laid_over_nothing_new_is_the_file_that_it_extends(layered):
    text = "version: 1\nspace: {loss: {choose: {gp: {weight: 1}, hinge: {}}}, lr: 1}\nbaseline: {lr: 1}\nrules: [1]\n"

    assert plain(layered("", text)) == plain(layered("# again", "", text)) == plain(read(text))
    assert plain(layered(text, text)) == plain(read(text))


def test_chain_is_laid_file_over_file_and_overrides_come_last(layered):
    files = ["data: {a: 0}", "data: {a: 1, b: 1}", "data: {a: 2, b: 2, c: 2}", "data: {a: 3, b: 3, c: 3, d: 3}"]

    assert plain(layered(*files)) == {"data": {"d": 3, "c": 2, "b": 1, "a": 0}}
    assert plain(layered(*files, overrides=["data.d=9"]))["data"]["d"] == 9


def test_chain_of_random_blocks_is_the_same_however_it_is_cut(layered):
    draw = random.Random(0)

    def block(depth):
        if depth == 3 or (depth and draw.random() < 0.3):
            return draw.choice([1, 2, [1]])
        return {key: block(depth + 1) for key in draw.sample(["choose", "x", "y"], draw.randrange(1, 4))}

    for _ in range(60):
        top, middle, low = ({"data": block(0)} for _ in range(3))
        whole = plain(layered(*[f"data: {json.dumps(each['data'])}" for each in (top, middle, low)]))
        assert whole == merged(merged(low, middle), top)


def test_values_stand_in_the_file_that_gives_them(layered, tmp_path):
    root = layered("data: {a: 1}", "b: 2\ndata:\n  c: 3\n  a: 4\n")
    data = root.entries["data"]

    assert data.entries["a"].place == Place(str(tmp_path / "0.yaml"), 1, 10, 1)
    assert data.entries["c"].place == Place(str(tmp_path / "1.yaml"), 2, 5, 1)
    assert data.key == Place(str(tmp_path / "0.yaml"), 1, 0, 4)
    assert root.entries["b"].key == Place(str(tmp_path / "1.yaml"), 0, 0, 1)


def test_extended_file_is_sought_beside_the_file_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "top.yaml").write_text("extends: deep/mid.yaml\na: 1")
    (tmp_path / "deep" / "mid.yaml").write_text("extends: er/low.yaml\nb: 2")
    (tmp_path / "deep" / "er" / "low.yaml").write_text("extends: ../../last.yaml\nc: 3")
    (tmp_path / "last.yaml").write_text("d: 4")
    monkeypatch.chdir(tmp_path / "deep")

    assert plain(load("../top.yaml", (), Problems(), KNOWN)) == {"d": 4, "c": 3, "b": 2, "a": 1}


@pytest.mark.parametrize(
    ("text", "marked", "message"),
    [
        ("a: 1\nextends: absent.yaml", "absent.yaml", "`absent.yaml` cannot be read: No such file or directory"),
        ("extends: .", ".", "cannot be read: Is a directory"),
        (r'extends: "a\0b"', r'"a\0b"', "cannot be read: not a path"),
        (r'extends: "\ud800"', r'"\ud800"', "cannot be read: "),
        ("extends: " + "x" * 5000, "x" * 5000, "cannot be read: File name too long"),
        ("extends: bytes.yaml", "bytes.yaml", "cannot be read: not UTF-8 text"),
        ("extends: [other.yaml]", "[other.yaml]", "`extends` must name a file, got a list"),
        ("extends: 7", "7", "`extends` must name a file, got `7`"),
        ("extends: ''", "''", "`extends` must name a file"),
        ("extends:", "extends", "`extends` must name a file, got nothing"),
    ],
)
def test_file_that_cannot_be_extended_is_told_where_it_is_named(tmp_path, text, marked, message):
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    path = tmp_path / "file.yaml"
    path.write_text(text)
    error = refused_chain(path)

    assert error.startswith("file.yaml:")
    assert message in error
    assert underlined(error) == [marked]


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ("a: [1", "low.yaml:1:6", "not valid YAML"),
        ("- a", "low.yaml:1:1", "expected a mapping of sections"),
        ("", "low.yaml:1:1", "the file is empty"),
        ("a: 1\na: 2", "low.yaml:2:1", "`a` is given twice"),
    ],
)
def test_mistake_of_an_extended_file_is_told_in_that_file(tmp_path, content, place, message):
    (tmp_path / "low.yaml").write_text(content)
    path = tmp_path / "file.yaml"
    path.write_text("extends: low.yaml\nb: 2")
    error = refused_chain(path)

    assert error.startswith(f"{place}  {message}")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_files_that_extend_each_other_in_a_circle_are_refused(tmp_path, length):
    for number in range(length):
        (tmp_path / f"{number}.yaml").write_text(f"a: 1\nextends: ./{(number + 1) % length}.yaml\n")
    with within(5):
        error = refused_chain(tmp_path / "0.yaml")

    names = [f"{number}.yaml" for number in [*range(length), 0]]
    assert error.startswith(f"{length - 1}.yaml:2:10  files extend each other in a circle: {' -> '.join(names)}\n")
    assert underlined(error) == ["./0.yaml"]


def test_circle_through_a_link_is_a_circle(tmp_path):
    (tmp_path / "file.yaml").write_text("extends: link.yaml")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "file.yaml")

    assert "in a circle" in refused_chain(tmp_path / "file.yaml")


def test_an_anchor_that_is_given_anew_warns_of_nothing(recwarn):
    assert plain(read("one: &a 1\ntwo: &a 2\nthree: *a")) == {"one": 1, "two": 2, "three": 2}
    assert not recwarn.list
