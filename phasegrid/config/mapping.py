"""Read a sweep from a mapping of plain Python values, which becomes nodes like those of YAML.

The source of every node is called ``<mapping>``; it has no lines, so mistakes are named by path.
Tuples count as lists, and NumPy numbers count as numbers.
"""

import math
import numbers
from collections.abc import Mapping, Sequence

from phasegrid.config.yaml import MAX_DEPTH, Node, Place, Scalar, keys_are_scalars, plain_text
from phasegrid.errors import Mistake

NAME = "<mapping>"
_PLACE = Place(NAME)


def from_mapping(source: Mapping[str, object]) -> tuple[Node, list[Mistake]]:
    """Return a mapping as a node, and the mistakes in it; the parts without mistakes are read."""
    mistakes: list[Mistake] = []
    return _node(source, "", 1, mistakes), mistakes


def _node(value: object, path: str, depth: int, mistakes: list[Mistake]) -> Node:
    if depth > MAX_DEPTH:
        return _wrong(f"nested more than {MAX_DEPTH} deep", path, mistakes)
    if isinstance(value, Mapping):
        return Node(_entries(value, path, depth, mistakes), _PLACE)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        items = [
            _node(item, _below(path, str(index)), depth + 1, mistakes)
            for index, item in enumerate(value)
        ]
        return Node(items, _PLACE)
    try:
        return Node(_scalar(value), _PLACE)
    except ValueError as error:
        return _wrong(str(error), path, mistakes)


def _entries(
    value: Mapping[object, object], path: str, depth: int, mistakes: list[Mistake]
) -> dict[str, Node]:
    entries: dict[str, Node] = {}
    for key, item in value.items():
        name = _key(key, path)
        if name is None:
            _wrong(f"found the key {key!r}; keys are text", path, mistakes)
            continue
        found = _node(item, _below(path, name), depth + 1, mistakes)
        entries[name] = Node(found.value, _PLACE, _PLACE)
    return entries


def _key(key: object, path: str) -> str | None:
    if not isinstance(key, str) and keys_are_scalars(path):
        try:
            return plain_text(_scalar(key))
        except ValueError:
            return None
    return key if isinstance(key, str) else None


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"found {value}; allowed: finite numbers")
        return float(value)
    what = f"found {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
    how = "; write it as a list: .tolist()" if hasattr(value, "tolist") else ""
    raise ValueError(
        f"{what}; allowed: None, True, False, numbers, text, and lists and mappings of these{how}"
    )


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(message: str, path: str, mistakes: list[Mistake]) -> Node:
    mistakes.append(Mistake(NAME, 0, 0, path, message))
    return Node(None, _PLACE)
