"""YAML text → plain data, strictly, with the line and column of every key and value.

PyYAML composes nodes; this module constructs from them only what a spec may hold: mappings with
text keys, lists, texts, numbers, true/false and null. Everything that YAML 1.1 reads in a
surprising way (dates, octal and base-60 numbers), every tag, duplicate key, alias bomb and second
document is reported instead of constructed, so no input can make Python objects.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import Reader

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 32

Path = tuple[str | int, ...]
Position = tuple[int, int]
"""Line and column, both from 1."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)")
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_MAX_INT = 2**63
_NOT_LITERAL = re.compile(f"[\x85\u2028\u2029]|{Reader.NON_PRINTABLE.pattern}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUE = frozenset({"yes", "true", "on"})
_HINTS = (
    ("found character '\\t'", "a tab is used to indent", "Indent with spaces."),
    (
        "mapping values are not allowed here",
        "a colon where no key can be",
        "Quote texts that contain ': ', and check the indentation.",
    ),
    (
        "expected a single document",
        "a second document begins here",
        "Write one model per file.",
    ),
    ("could not find expected ':'", "a key without a colon", "Write it as key: value."),
    (
        "expected <block end>",
        "this does not fit what stands before it",
        "Check the indentation and the brackets.",
    ),
    ("found undefined alias", "an alias (*name) without an anchor (&name) before it", ""),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where.

    Attributes:
        position: Line and column, from 1; `None` when it is about the file as a whole.
        path: Keys and list indices from the top of the document.
        message: What is wrong.
        hint: What to do about it.
    """

    position: Position | None
    path: Path
    message: str
    hint: str = ""

    @property
    def text(self) -> str:
        """Message and hint as one."""
        message = self.message if self.message.endswith((".", "?")) else f"{self.message}."
        return f"{message} {self.hint}".rstrip()


class Unreadable(Exception):
    """The text is no YAML at all, or cannot safely be read further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(slots=True)
class Document:
    """One document's data and where each part of it stands.

    Attributes:
        data: Mappings, tuples, texts, numbers, booleans and `None`.
        keys: Position of each key (for list items, of the item).
        values: Position of each value.
        written: The text of each scalar that was not quoted, as written.
        problems: What is wrong with it as YAML.
    """

    data: Any = None
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def position(self, path: Path, *, key: bool = False) -> Position:
        """Where the path stands, or the closest part around it that does stand somewhere."""
        if not key and path in self.values:
            return self.values[path]
        while path:
            if path in self.keys:
                return self.keys[path]
            path = path[:-1]
        return self.values.get((), (1, 1))


def decode(data: bytes) -> str:
    """The text of a spec file.

    Raises:
        Unreadable: when it is too large or not UTF-8 text.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(
            Problem(None, (), f"is {len(data):,} bytes, more than the {MAX_BYTES:,} allowed")
        )
    for bom in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(bom):
            raise Unreadable(Problem(None, (), "is UTF-16 or UTF-32 text", "Save it as UTF-8."))
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        start = before.rfind(b"\n") + 1
        position = (before.count(b"\n") + 1, len(before[start:].decode(errors="replace")) + 1)
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise Unreadable(Problem(position, (), message, "Save the file as UTF-8.")) from None


def _json_as_yaml(text: str) -> str:
    """JSON's text so that YAML 1.1 reads the same; any other text as it is.

    In JSON, tabs stand only outside of texts, and the characters that YAML does not allow or takes
    for line breaks only inside of them.
    """
    if len(text) > MAX_BYTES or not text.lstrip().startswith("{"):
        return text
    if "\t" not in text and not _NOT_LITERAL.search(text):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    text = text.replace("\t", " ")
    return _NOT_LITERAL.sub(lambda odd: f"\\u{ord(odd.group()):04x}", text)


def read(text: str) -> Document:
    """Read one YAML document.

    Raises:
        Unreadable: when there is nothing that could be checked further.
    """
    text = _json_as_yaml(text.removeprefix("\ufeff"))
    if len(text) > MAX_BYTES:
        raise Unreadable(Problem(None, (), f"is larger than the {MAX_BYTES:,} bytes allowed"))
    odd = Reader.NON_PRINTABLE.search(text)
    if odd:
        before = text[: odd.start()]
        position = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"the control character U+{ord(odd.group()):04X} is not allowed"
        raise Unreadable(Problem(position, (), message, "Remove it."))
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_explained(error)) from None
    except (ValueError, RecursionError):  # a broken %YAML line, for example
        raise Unreadable(Problem((1, 1), (), "is not YAML")) from None
    finally:
        loader.dispose()
    if node is None:
        raise Unreadable(
            Problem(
                None, (), "is empty", "A spec needs at least id: and engine: (see aviary schema)."
            )
        )
    document = Document()
    _Builder(document).build(node)
    return document


class _Loader(yaml.SafeLoader):
    """Composes nodes only, and not too many of them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > MAX_DEPTH:
            raise Unreadable(Problem(_place(mark), (), f"is nested deeper than {MAX_DEPTH} levels"))
        if self._nodes > MAX_NODES:
            raise Unreadable(Problem(_place(mark), (), f"has more than {MAX_NODES:,} values"))
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Builder:
    """Turns nodes into data, once per place where an alias puts them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._open: list[int] = []
        self._nodes = 0

    def build(self, node: yaml.Node) -> None:
        self._document.values[()] = _place(node.start_mark)
        self._document.data = self._value(node, ())

    def _problem(self, node: yaml.Node, path: Path, message: str, hint: str = "") -> None:
        self._document.problems.append(Problem(_place(node.start_mark), path, message, hint))

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        self._document.values[path] = _place(node.start_mark)
        if id(node) in self._open:
            raise Unreadable(Problem(_place(node.start_mark), path, "contains itself by an alias"))
        if self._nodes > MAX_NODES:
            message = f"has more than {MAX_NODES:,} values once its aliases (*name) are filled in"
            raise Unreadable(Problem(_place(node.start_mark), path, message))
        if len(self._open) > MAX_DEPTH:
            raise Unreadable(
                Problem(_place(node.start_mark), path, f"is nested deeper than {MAX_DEPTH} levels")
            )
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return self._sequence(node, path)
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            return self._tagged(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        merged = self._merged(node, path)
        result: dict[str, Any] = {}
        seen: dict[str, Position] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            place = _place(key_node.start_mark)
            if key in seen:
                line = seen[key][0]
                first = f"first in line {line}" if line != place[0] else "in this line"
                self._problem(key_node, (*path, key), f"is given twice ({first})")
                continue
            seen[key] = place
            if key_node.tag == f"{_TAG}merge":
                continue
            self._document.keys[(*path, key)] = place
            result[key] = self._value(value_node, (*path, key))
        return {**merged, **result}

    def _merged(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        """What `<<` brings in; the mapping's own keys come over it."""
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merged = self._merge(value_node, path)
                self._document.values[path] = _place(node.start_mark)
                return merged
        return {}

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if isinstance(node, yaml.ScalarNode):
            if node.tag == f"{_TAG}merge":
                return "<<"
            if node.tag in (f"{_TAG}str", f"{_TAG}value"):
                return str(node.value)
            shown = (
                f"the key {node.value or 'of nothing'} is read as {_what(node.tag)}, not as text"
            )
            self._problem(node, path, shown, "Put it in quotes." if node.value else "")
        else:
            self._problem(node, path, "a list or mapping cannot be a key")
        return None

    def _merge(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in reversed(nodes):
            if not isinstance(part, yaml.MappingNode):
                self._problem(part, path, "<< needs a mapping, or a list of mappings")
                continue
            value = self._value(part, path)
            if isinstance(value, dict):
                merged.update(value)
        return merged

    def _sequence(self, node: yaml.SequenceNode, path: Path) -> tuple[Any, ...]:
        for index, item in enumerate(node.value):
            self._document.keys[(*path, index)] = _place(item.start_mark)
        return tuple(self._value(item, (*path, index)) for index, item in enumerate(node.value))

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text, tag = str(node.value), node.tag.removeprefix(_TAG)
        if node.style is None:
            self._document.written[path] = text
        if tag in ("str", "value"):
            if node.style == '"' and _SURROGATE.search(text):
                return self._joined(node, path)
            if node.style is None and _EXPONENT.fullmatch(text):
                return self._number(node, path)
            return text
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() in _TRUE
        if tag in ("int", "float"):
            return self._number(node, path)
        if tag == "timestamp":
            self._problem(node, path, f"{text} is read as a date", "Put it in quotes.")
            return None
        return self._tagged(node, path)

    def _joined(self, node: yaml.ScalarNode, path: Path) -> str | None:
        r"""The text with JSON's pairs of escapes (\ud83d\udc26) as the characters they mean."""
        try:
            return str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self._problem(node, path, "holds half a character (a \\ud800 to \\udfff by itself)")
            return None

    def _number(self, node: yaml.ScalarNode, path: Path) -> int | float | None:
        text, tag = str(node.value), node.tag.removeprefix(_TAG)
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        if tag == "int":
            if not _INT.fullmatch(text):
                what = (
                    "a base-60 number (as in hours:minutes)" if ":" in text else "an octal number"
                )
                hint = "Put it in quotes if it is text, or write the plain number."
                self._problem(node, path, f"{shown} is read as {what}", hint)
                return None
            number = int(text.replace("_", ""), 0) if len(text) < 80 else _MAX_INT
            if abs(number) < _MAX_INT:
                return number
            self._problem(node, path, f"{shown} is too large a number")
            return None
        try:
            value = float(
                text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
            )
        except ValueError:
            self._problem(
                node, path, f"{shown} is not a plain number", "Put it in quotes if it is text."
            )
            return None
        if math.isfinite(value):
            return value
        self._problem(node, path, f"{shown} is not a finite number")
        return None

    def _tagged(self, node: yaml.Node, path: Path) -> None:
        tag = node.tag.replace(_TAG, "!!")
        hint = "Write plain text, numbers, lists and mappings."
        self._problem(node, path, f"the tag {tag} is not allowed here", hint)


def _place(mark: Any) -> Position:
    return (mark.line + 1, mark.column + 1)


def _what(tag: str) -> str:
    names = {"bool": "true/false", "int": "a number", "float": "a number", "null": "nothing"}
    names["timestamp"] = "a date"
    return names.get(tag.removeprefix(_TAG), tag.replace(_TAG, "!!"))


def _explained(error: yaml.MarkedYAMLError) -> Problem:
    text = f"{error.context or ''} {error.problem or ''}".strip()
    mark = error.problem_mark or error.context_mark
    position = _place(mark) if mark is not None else None
    for found, message, hint in _HINTS:
        if found in text:
            return Problem(position, (), message, hint)
    if error.context_mark is not None and position is not None:
        line = error.context_mark.line + 1
        since = f" (it began in line {line})" if line != position[0] else ""
        return Problem(position, (), f"is not YAML: {text}{since}")
    return Problem(position, (), f"is not YAML: {text}")


def looks_like_number(text: str) -> bool:
    """Whether this module reads a plain text as a number that YAML 1.1 would not."""
    return _EXPONENT.fullmatch(text) is not None


def below(path: Path, others: Iterable[Path]) -> bool:
    """Whether the path is one of the others, or inside one of them."""
    return any(path[: len(other)] == other for other in others if other)
