"""A YAML file as a tree that knows where everything stands, and problems that point at it."""

import numbers
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from gantune.config import Scalar
from gantune.errors import SpecError

GIVEN = "space"  # what values are called that no file holds
MAX_DEPTH = 20
MAX_VALUES = 10_000
OPTIONAL = ("space", "rules", "baseline", "first")  # where null takes away what an extended file has
COMPONENT_PLACES = (("objective", "features"), ("search", "scheduler"))  # besides the parameters of a space


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one line of a source; line and column count from 0."""

    source: str
    line: int = 0
    column: int = 0
    width: int = 1
    path: str = ""  # where it stands in values that no text was read from; `line` then only counts them


@dataclass(slots=True)
class Node:
    """A value with its place, and the place of its key where it is an entry of a mapping."""

    value: "Scalar | list[Node] | dict[str, Node]"
    place: Place
    key: Place | None = None

    @property
    def entries(self) -> "dict[str, Node]":
        """The entries of a mapping; none where the value is something else."""
        return self.value if isinstance(self.value, dict) else {}

    def got(self) -> str:
        """What stands here, in words."""
        if self.value is None:
            return "nothing"
        if isinstance(self.value, dict | list):
            return "a block" if isinstance(self.value, dict) else "a list"
        return f"`{self.value}`"


@dataclass(slots=True)
class Problems:
    """Collects everything wrong with a document, so that all of it is said at once."""

    texts: dict[str, str] = field(default_factory=dict)
    found: list[tuple[Place, str, str]] = field(default_factory=list)

    def add(self, place: Place, message: str, fix: str = "") -> None:
        """Note one problem: what is wrong, and how it is mended."""
        if (place, message, fix) not in self.found:
            self.found.append((place, message, fix))

    def raise_if_any(self) -> None:
        """Raise SpecError with every problem, in reading order."""
        if self.found:
            order = sorted(self.found, key=lambda item: (item[0].source, item[0].line, item[0].column))
            count = f"{len(order)} error{'s' if len(order) > 1 else ''}. Nothing was started."
            raise SpecError("\n".join([*(self._render(*item) for item in order), count]))

    def _render(self, place: Place, message: str, fix: str) -> str:
        if place.path:
            return f"{place.path}  {message}" + (f"\n  {fix}" if fix else "")
        head = f"{place.source}:{place.line + 1}:{place.column + 1}  {message}"
        lines = self.texts.get(place.source, "").splitlines()
        if place.line >= len(lines):
            return head + (f"\n  {fix}" if fix else "")
        gutter = f"{place.line + 1:>4} | "
        width = max(1, min(place.width, len(lines[place.line]) - place.column))
        pointer = " " * (len(gutter) - 2) + "| " + " " * place.column + "^" * width
        return f"{head}\n{gutter}{lines[place.line]}\n{pointer} {fix}".rstrip()


def load(
    source: Path | str | Mapping[str, Any], overrides: Sequence[str], problems: Problems, known: Mapping[str, object]
) -> Node:
    """Read a file, or the same as nested dicts, lay it over the one that it extends, and `path=value` over both.

    known: the sections that a path may start with. Raises SpecError where a file cannot be read or is not YAML:
    nothing more can then be said.
    """
    if isinstance(source, Mapping):
        given = _given(source, "", problems, count(), depth=0)
        problems.raise_if_any()
        root = _extended(given, Path(GIVEN), problems)
    else:
        try:
            text = _read(source)
        except (OSError, ValueError) as error:
            raise SpecError(f"{source}: cannot be read: {_reason(error)}. Nothing was started.") from error
        root = _extended(_parse_file(text, source, problems), Path(source), problems)
    for override in overrides:
        _override(root, override, problems, known)
    problems.raise_if_any()
    return root


def _given(value: Any, path: str, problems: Problems, counted: Iterator[int], depth: int) -> Node:
    """Plain values as a tree whose places are paths, such as `space.loss`."""
    place = Place(GIVEN, next(counted), path=path or GIVEN)
    if depth > MAX_DEPTH:
        problems.add(place, "nested too deeply", "nothing must contain itself")
        return Node(None, place)
    if isinstance(value, Mapping):
        entries = {
            str(key): _given(child, f"{path}.{key}" if path else str(key), problems, counted, depth + 1)
            for key, child in value.items()
        }
        for child in entries.values():
            child.key = child.place
        return Node(entries, place)
    if isinstance(value, list | tuple):
        items = [_given(child, f"{path}[{at}]", problems, counted, depth + 1) for at, child in enumerate(value)]
        return Node(items, place)
    if isinstance(value, os.PathLike):
        return Node(os.fspath(value), place)
    if value is None or isinstance(value, bool | str):
        return Node(value, place)
    if isinstance(value, numbers.Real):  # NumPy's, too
        return Node(int(value) if isinstance(value, numbers.Integral) else float(value), place)
    problems.add(place, f"expected a plain value, got a {type(value).__name__}", "as a YAML file could hold it")
    return Node(None, place)


def _read(path: Path | str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "not a path"


def _parse_file(text: str, path: Path | str, problems: Problems) -> Node:
    root = parse(text, str(path), problems)
    if not isinstance(root.value, dict):
        problems.add(root.place, "expected a mapping of sections", "start with `version: 1`")
        problems.raise_if_any()
    return root


def _extended(root: Node, path: Path, problems: Problems) -> Node:
    """A file's tree laid over that of the file that it extends, and so on. A name is its own file's alone."""
    chain, paths = [root], [path]
    while (named := chain[-1].entries.pop("extends", None)) is not None:
        if not isinstance(named.value, str) or not named.value:
            problems.add(named.place, f"`extends` must name a file, got {named.got()}", "relative to this file")
            break
        paths.append(paths[-1].parent / named.value)
        try:
            text = _read(paths[-1])
        except (OSError, ValueError) as error:
            problems.add(named.place, f"`{named.value}` cannot be read: {_reason(error)}", "relative to this file")
            break
        if paths[-1].resolve() in [each.resolve() for each in paths[:-1]]:
            circle = " -> ".join(str(each) for each in paths)
            problems.add(named.place, f"files extend each other in a circle: {circle}", "one of them must not")
            break
        chain.append(_parse_file(text, paths[-1], problems))
    problems.raise_if_any()
    whole = chain.pop()
    while chain:
        whole.entries.pop("name", None)
        whole = _laid_over(whole, chain.pop())
    return whole


def _laid_over(under: Node, over: Node, *keys: str) -> Node:
    """One value laid over another: mappings merge key by key, anything else replaces. `keys` say where they stand.

    Blocks of components merge where they share a name; a block of another component replaces.
    """
    if not isinstance(under.value, dict) or not isinstance(over.value, dict):
        return over
    component = keys in COMPONENT_PLACES or (len(keys) == 2 and keys[0] in OPTIONAL)
    if component and not under.entries.keys() & over.entries.keys():
        return over
    merged = dict(under.entries)
    for key, child in over.entries.items():
        if key not in merged:
            merged[key] = child
        elif child.value is None and [*keys, key][0] in OPTIONAL:
            del merged[key]
        else:
            merged[key] = _laid_over(merged[key], child, *keys, key)
    return Node(merged, over.place, over.key)


def parse(text: str, source: str, problems: Problems) -> Node:
    """Parse YAML 1.2 text. Raises SpecError where it is not YAML."""
    problems.texts[source] = text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML 1.2 lets an anchor be given anew
            node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source, mark.line, mark.column) if mark else Place(source)
        problems.add(place, f"not valid YAML: {error.problem or error.context}")
        node = None
    except (YAMLError, ValueError, OverflowError, RecursionError) as error:
        problems.add(_place_in_reader_error(error, text, source), f"not valid YAML: {_first_line(error)}")
        node = None
    problems.raise_if_any()
    if node is None:
        problems.add(Place(source), "the file is empty")
        problems.raise_if_any()
    root = _build(node, source, problems, depth=0, built=count(1))
    problems.raise_if_any()
    return root


def _place_in_reader_error(error: Exception, text: str, source: str) -> Place:
    position = getattr(error, "position", None)
    if not isinstance(position, int):
        return Place(source)
    before = text[:position].split("\n")
    return Place(source, len(before) - 1, len(before[-1]))


def _first_line(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).splitlines()[0]


def _build(node: object, source: str, problems: Problems, depth: int, built: Iterator[int]) -> Node:
    assert isinstance(node, ScalarNode | SequenceNode | MappingNode)
    place = _place(node, source)
    if depth > MAX_DEPTH:
        problems.add(place, "nested too deeply", "an alias must not contain itself")
        return Node(None, place)
    if next(built) > MAX_VALUES:
        problems.add(place, f"more than {MAX_VALUES:,} values", "aliases repeat what they name")
        return Node(None, place)
    if isinstance(node, ScalarNode):
        return Node(_scalar(node, place, problems), place)
    if str(node.tag) not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        problems.add(place, f"unknown tag `{node.tag}`", "write a plain value")
    if isinstance(node, SequenceNode):
        return Node([_build(child, source, problems, depth + 1, built) for child in node.value], place)
    entries: dict[str, Node] = {}
    for key_node, value_node in node.value:
        key_place = _place(key_node, source)
        if not isinstance(key_node, ScalarNode):
            problems.add(key_place, "a key must be a plain name")
            continue
        child = _build(value_node, source, problems, depth + 1, built)
        child.key = key_place
        if child.value is None and value_node.start_mark.index == value_node.end_mark.index:
            child.place = key_place  # the parser puts a value that is not there at the next token
        if key_node.value in entries:
            problems.add(key_place, f"`{key_node.value}` is given twice", "keep one of them")
        entries[key_node.value] = child
    return Node(entries, place)


def _place(node: object, source: str) -> Place:
    start, end = node.start_mark, node.end_mark  # type: ignore[attr-defined]
    width = end.column - start.column if end.line == start.line else 1
    return Place(source, start.line, start.column, max(1, width))


def _scalar(node: ScalarNode, place: Place, problems: Problems) -> Scalar:
    text = str(node.value)
    kind = str(node.tag).rpartition(":")[2]
    try:
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int":
            digits = text.replace("_", "")
            return int(digits) if digits.lstrip("+-").isdigit() else int(digits, 0)
        if kind == "float":
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        problems.add(place, f"`{text}` is not a number")
        return None
    if kind not in ("str", "timestamp", "value", "merge"):  # YAML 1.2 has no dates
        problems.add(place, f"unknown tag `{node.tag}`", "write a plain value")
    return text


def _override(root: Node, override: str, problems: Problems, known: Mapping[str, object]) -> None:
    path, equals, text = override.partition("=")
    source = f"--set {path}"
    problems.texts[source] = override
    keys = _keys(path)
    if not equals or not all(keys):
        problems.add(Place(source, 0, 0, len(override)), "expected path=value", "for example --set budget.trials=8")
        return
    own = Problems()
    try:
        value = parse(text or "null", source, own)
    except SpecError:
        for place, message, fix in own.found:
            problems.add(_moved(place, len(path) + 1), message, fix)
        return
    _shift(value, len(path) + 1)
    value.key = Place(source, 0, 0, len(path))
    target = root
    for key in _steps(root, keys if keys[0] in known else ["space", *keys]):
        child = target.entries.get(key)
        if child is None or not isinstance(child.value, dict):
            child = Node({}, value.place, value.key)
            target.entries[key] = child
        parent, target = target, child
    assert isinstance(parent.value, dict)
    parent.value[key] = value


def _keys(path: str) -> list[str]:
    """The parts of a path; the name of a component from a package has dots of its own."""
    keys = path.split(".")
    colon = next((place for place, key in enumerate(keys) if ":" in key), None)
    start = (keys[0] == "space") + 1
    start += keys[start : start + 1] == ["choose"]
    if colon is None or colon < start:
        return keys
    return [*keys[:start], ".".join(keys[start : colon + 1]), *keys[colon + 1 :]]


def _moved(place: Place, columns: int) -> Place:
    return place if place.line else replace(place, column=place.column + columns)


def _steps(root: Node, keys: Sequence[str]) -> Iterator[str]:
    """The keys to walk, stepping through `choose:` so that a parameter's own path reaches it."""
    node: Node | None = root
    for key in keys:
        if node is not None and "choose" in node.entries and key != "choose":
            yield "choose"
            node = node.entries["choose"]
        yield key
        node = node.entries.get(key) if node is not None else None


def _shift(node: Node, columns: int) -> None:
    """Move a value parsed on its own to where it stands in the command's argument."""
    node.place = _moved(node.place, columns)
    if node.key is not None:
        node.key = _moved(node.key, columns)
    children = node.value if isinstance(node.value, list) else node.entries.values()
    for child in children:
        _shift(child, columns)
