"""Turn pydantic's errors into messages about a sweep: what was found, what is allowed, did you
mean.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.texts import suggest

_ALLOWED: Mapping[str, str] = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "none_required": "null",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(error: ValidationError, node: Node) -> list[tuple[list[str], Place, str]]:
    """Return for each mistake its path below `node`, its place, and its message.

    Messages of a union's members about one value are joined with "or". Mistakes inside a list take
    precedence over the mistake that the value is a list.
    """
    grouped: dict[tuple[str, ...], list[Any]] = {}
    places: dict[tuple[str, ...], Node] = {}
    for detail in error.errors(include_url=False):
        where, found = _follow(node, detail["loc"])
        grouped.setdefault(where, []).append(detail)
        places[where] = found
    deepest = [
        where
        for where in grouped
        if not any(len(other) > len(where) and other[: len(where)] == where for other in grouped)
    ]
    return [(list(w), places[w].place, _message(grouped[w], places[w])) for w in deepest]


def _follow(node: Node, loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], Node]:
    """Follow a location as far as there are nodes; skip names of union members."""
    path: list[str] = []
    for part in loc:
        if isinstance(part, int) and node.items is not None and part < len(node.items):
            node = node.items[part]
        elif isinstance(part, str) and node.mapping is not None and part in node.mapping:
            node = node.mapping[part]
        else:
            continue
        path.append(str(part))
    return tuple(path), node


def _message(details: list[Any], node: Node) -> str:
    bounded = [d for d in details if d["type"] in _BOUNDS]
    chosen = bounded or details  # "out of bounds" for the right type says more than "wrong type"
    lacks = sum(detail["type"] == "missing" for detail in chosen)
    allowed = list(dict.fromkeys(_allowed(detail, node, lacks) for detail in chosen))
    message = f"found {plain_text(node.plain())}; allowed: {' or '.join(allowed)}"
    if isinstance(node.value, str):
        choices = [
            choice
            for detail in details
            if detail["type"] == "literal_error"
            for choice in re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        ]
        message += suggest(node.value, choices)
    return message


def _allowed(detail: Any, node: Node, lacks: int) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        limit = context[bound]
        whole = isinstance(limit, float) and limit.is_integer()
        return f"{words} {int(limit) if whole else limit}"
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    if kind == "missing" and node.items is not None:
        return f"a list of {len(node.items) + lacks}"
    if kind == "too_short":
        return f"at least {context['min_length']} items"
    if kind == "too_long":
        return f"at most {context['max_length']} items"
    return _ALLOWED.get(kind) or str(detail["msg"])
