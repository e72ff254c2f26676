"""Read YAML 1.2 as data with positions, safely.

Only ruamel's event parser is used: scalars are resolved here by the core schema of YAML 1.2
(section 10.3.2), so ``1e-4`` is a number, ``on`` is text, ``017`` is seventeen, and no Python
object can be constructed. Tags are refused. Aliases of finished anchors share one node; expanded
size and depth are limited, so a small file cannot grow. Keys are text. In a table of ``couple``,
the keys are values of a field, so any scalar is allowed there and kept as its text.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from phasegrid.errors import Mistake
from phasegrid.keys import Json

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after expanding aliases
MAX_DEPTH = 40

Scalar: TypeAlias = "bool | int | float | str | None"

_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SCALAR_KEYS = re.compile(r"couple\..+")  # here, keys are values of a field
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a source: line and column count from 1; both are 0 if the source has no lines."""

    file: str
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place: a scalar, a list of nodes, or a mapping from text to nodes.

    `key_place` is the place of its key in the mapping around it. `size` counts this node and all
    nodes below it, with aliases expanded; `depth` is 1 for a scalar.
    """

    value: "Scalar | list[Node] | dict[str, Node]"
    place: Place
    key_place: Place | None = None
    size: int = 1
    depth: int = 1

    @property
    def mapping(self) -> "dict[str, Node] | None":
        """Return the entries if this is a mapping."""
        return self.value if isinstance(self.value, dict) else None

    @property
    def items(self) -> "list[Node] | None":
        """Return the items if this is a list."""
        return self.value if isinstance(self.value, list) else None

    def plain(self) -> Json:
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def below(self, path: str) -> "Node":
        """Return the node at a path of keys and numbers of items, or the last that is written on
        the way; a key may have dots.
        """
        for key, node in (self.mapping or {}).items():
            if path == key or path.startswith(f"{key}."):
                return node.below(path.removeprefix(key).removeprefix("."))
        index, _, rest = path.partition(".")
        if self.items is not None and index.isdigit():
            return self.items[int(index)].below(rest)
        return self


class YamlError(Exception):
    """Raised for text that is not one YAML document; carries the mistake."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def read_file(path: Path, name: str) -> tuple[Node, list[Mistake]]:
    """Read a YAML file of at most `MAX_BYTES`; `name` stands for it in positions.

    Returns the document and the mistakes after which reading could go on (duplicate keys, tags, bad
    numbers).

    Raises:
        YamlError: if the file cannot be read or is not one YAML document.
    """
    try:
        if path.is_dir():
            raise _wrong(Place(name), "this is a folder; give a sweep file")
        if path.exists() and not path.is_file():
            raise _wrong(Place(name), "this is not a regular file; give a sweep file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise _wrong(Place(name), f"cannot be read: {reason}") from error
    if len(raw) > MAX_BYTES:
        raise _wrong(Place(name), f"larger than {MAX_BYTES:,} bytes, which no sweep file is")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        place = Place(name, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        found = f"found the byte 0x{raw[error.start]:02x}, which is not UTF-8"
        raise _wrong(place, f"{found}; save the file as UTF-8") from error
    return read_text(text, name)


def read_text(
    text: str, name: str, *, with_lines: bool = True, above: str = ""
) -> tuple[Node, list[Mistake]]:
    """Read YAML text as one document; see `read_file`. Without `with_lines`, places hold only
    `name`.

    `above` is the dotted path where the text will be inserted.

    Raises:
        YamlError: if the text is not one YAML document.
    """
    return _Composer(text, name, with_lines, above).document()


@dataclass(slots=True)
class _Open:
    """An unfinished list or mapping; `key` is the key whose value comes next."""

    place: Place
    anchor: str | None
    entries: "dict[str, Node] | None"
    elements: list[Node]
    key: tuple[str, Place] | None = None
    awaits_value: bool = False
    size: int = 1
    depth: int = 1


class _Composer:
    """Builds nodes from events with an explicit stack: neither depth nor aliases can exhaust
    anything.
    """

    def __init__(self, text: str, name: str, with_lines: bool, above: str) -> None:
        self.text = text
        self.above = above
        self.name = name
        self.with_lines = with_lines
        self.mistakes: list[Mistake] = []
        self.anchors: dict[str, Node] = {}
        self.stack: list[_Open] = []
        self.root: Node | None = None

    def document(self) -> tuple[Node, list[Mistake]]:
        for event in self._events():
            if isinstance(event, DocumentStartEvent):
                if self.root is not None:
                    raise self._error(event, "a second document starts here; a sweep is one")
            elif isinstance(event, ScalarEvent):
                self._check_tag(event)
                self._add(self._scalar(event), event.anchor)
            elif isinstance(event, AliasEvent):
                self._alias(event)
            elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
                self._open(event)
            elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
                self._close()
        if self.root is None:
            raise _wrong(
                Place(self.name, *((1, 1) if self.with_lines else ())), "found nothing: it is empty"
            )
        return self.root, self.mistakes

    def _events(self) -> Iterator[Any]:
        try:
            yield from YAML(typ="safe", pure=True).parse(self.text)
        except YamlError:
            raise
        except ReaderError as error:
            before = self.text[: error.position]
            place = self._place(before.count("\n"), error.position - before.rfind("\n") - 1)
            found = f"found the character U+{ord(self.text[error.position]):04X}"
            raise _wrong(place, f"{found}, which YAML does not allow") from error
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._place(mark.line, mark.column) if mark else Place(self.name)
            raise _wrong(place, self._explain(error)) from error
        except (YAMLError, ArithmeticError, ValueError, TypeError, LookupError) as error:
            # ruamel's scanner does not catch some of these, such as an escape beyond Unicode
            raise _wrong(self._here(), f"this is not valid YAML ({error})") from error

    def _explain(self, error: MarkedYAMLError) -> str:
        problem = " ".join(str(error.problem or error.context or "syntax error").split())
        problem = problem.replace("'\\x00'", "the end")
        if "\\t" in problem:
            problem += "; indent with spaces, not tabs"
        return f"this is not valid YAML: {problem}"

    def _place(self, line: int, column: int) -> Place:
        return Place(self.name, line + 1, column + 1) if self.with_lines else Place(self.name)

    def _here(self) -> Place:
        return self.stack[-1].place if self.stack else self._place(0, 0)

    def _at(self, event: Any) -> Place:
        return self._place(event.start_mark.line, event.start_mark.column)

    def _error(self, event: Any, message: str) -> YamlError:
        return _wrong(self._at(event), message, self._path())

    def _mistake(self, place: Place, message: str) -> None:
        path = self._path()
        self.mistakes.append(Mistake(place.file, place.line, place.column, path, message))

    def _path(self) -> str:
        parts: list[str] = []
        for frame in self.stack:
            if frame.entries is None:
                parts.append(str(len(frame.elements)))
            elif frame.awaits_value and frame.key is not None:
                parts.append(frame.key[0])
        return ".".join(parts)

    def _keys_are_scalars(self) -> bool:
        return keys_are_scalars(".".join(part for part in (self.above, self._path()) if part))

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None:
            self._mistake(self._at(event), f"found the tag {event.tag}; tags are not allowed")

    def _scalar(self, event: Any) -> Node:
        place = self._at(event)
        if event.style is not None:
            return Node(event.value, place)
        try:
            return Node(resolve_scalar(event.value), place)
        except ValueError as error:
            self._mistake(place, str(error))
            return Node(None, place)

    def _alias(self, event: Any) -> None:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise self._error(event, f"found the alias *{event.anchor}, but no finished anchor")
        self._add(node, None)

    def _open(self, event: Any) -> None:
        self._check_tag(event)
        self._refuse_key(event)
        if len(self.stack) >= MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} deep")
        entries: dict[str, Node] | None = {} if isinstance(event, MappingStartEvent) else None
        self.stack.append(_Open(self._at(event), event.anchor, entries, []))

    def _refuse_key(self, event: Any) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and top.entries is not None and not top.awaits_value:
            raise self._error(event, "found a list or mapping as a key; keys are text")

    def _close(self) -> None:
        done = self.stack.pop()
        value = done.elements if done.entries is None else done.entries
        self._add(Node(value, done.place, None, done.size, done.depth), done.anchor)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        top.size += node.size
        top.depth = max(top.depth, node.depth + 1)
        if top.size > MAX_NODES:
            message = f"more than {MAX_NODES:,} values, counting those that aliases repeat"
            raise _wrong(top.place, message, self._path())
        if top.depth + len(self.stack) > MAX_DEPTH + 2:
            raise _wrong(top.place, f"nested more than {MAX_DEPTH} deep by aliases", self._path())
        if top.entries is None:
            top.elements.append(node)
        elif not top.awaits_value:
            top.key, top.awaits_value = self._key(node, top.entries), True
        else:
            if top.key is not None:
                top.entries[top.key[0]] = replace(node, key_place=top.key[1])
            top.awaits_value = False

    def _key(self, node: Node, entries: "dict[str, Node]") -> tuple[str, Place] | None:
        key = node.value
        if node.mapping is None and node.items is None and self._keys_are_scalars():
            key = key if isinstance(key, str) else plain_text(node.plain())
        if not isinstance(key, str):
            self._mistake(node.place, f"found the key {plain_text(node.plain())}; keys are text")
            return None
        if key in entries:
            first = entries[key].key_place
            assert first is not None
            line = f" (first in line {first.line})" if first.line else ""
            self._mistake(node.place, f"found the key {key!r} twice{line}")
            return None
        return key, node.place


def keys_are_scalars(path: str) -> bool:
    """Say whether the keys of the mapping at a dotted path stand for values of a field."""
    return _SCALAR_KEYS.fullmatch(path) is not None


def resolve_scalar(text: str) -> Scalar:
    """Resolve a plain scalar by the core schema of YAML 1.2.

    >>> [resolve_scalar(text) for text in ("1e-4", "on", "017", "0o17", "~", "true")]
    [0.0001, 'on', 17, 15, None, True]

    Raises:
        ValueError: for NaN, an infinity, or a number too large to hold.
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INFINITE.fullmatch(text):
        raise ValueError(f"found {text}; allowed: finite numbers")
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            if len(text) > 300:
                raise ValueError(f"found a number of {len(text)} digits; allowed: finite numbers")
            return int(text, base)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"found {text}, too large to hold; allowed: finite numbers")
        return number
    return text


def plain_text(value: Json, limit: int = 60) -> str:
    """Return a value as text for a message, in YAML's flow style, cut to `limit` characters.

    >>> plain_text([1, "a", None, True])
    "[1, 'a', null, true]"
    """
    text = _flow(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _flow(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(_flow(item) for item in value) + "]"


def _wrong(place: Place, message: str, path: str = "") -> YamlError:
    return YamlError(Mistake(place.file, place.line, place.column, path, message))
