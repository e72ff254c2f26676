"""Resolve the arguments of a declared dataclass from YAML nodes: check types strictly and fill in
defaults.

Each field is checked by itself against its annotation, with pydantic in strict JSON mode: text is
not a number, a bool is not an integer, 128.0 is not an integer, an integer is a number and becomes
a float. A field that is itself a dataclass is resolved field by field; where it has a `name`, text
stands for ``{name: text}``. Results are plain JSON values.
"""

import dataclasses
import json
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pydantic import JsonValue, TypeAdapter, ValidationError

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.wording import explain
from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.errors import SweepError
from phasegrid.keys import Json
from phasegrid.texts import suggest


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a declared dataclass.

    `nested` is its dataclass if the field is one; `kinds` are the plain types that it accepts, with
    NoneType if it may be null. `resolve`, where it is given, reads its values in place of the
    adapter.
    """

    name: str
    nested: type | None
    kinds: frozenset[type]
    required: bool
    default: Json
    adapter: "TypeAdapter[Any] | None"
    resolve: "Callable[[Node, str, Diagnostics], Json] | None" = None

    @property
    def nullable(self) -> bool:
        """Whether null is allowed."""
        return type(None) in self.kinds

    @property
    def whole(self) -> bool:
        """Whether it accepts integers and no other numbers."""
        return int in self.kinds and float not in self.kinds


@lru_cache(maxsize=256)
def fields_of(owner: type) -> Mapping[str, Field]:
    """Return the fields of a declared dataclass by name.

    Raises:
        SweepError: if an annotation cannot be understood.
    """
    try:
        hints = get_type_hints(owner, include_extras=True)
        return {
            spec.name: _field(spec, hints[spec.name])
            for spec in dataclasses.fields(owner)
            if spec.init
        }
    except Exception as error:  # annotations of a plug-in can raise anything
        raise SweepError(f"the arguments of {owner.__name__} cannot be read: {error}") from error


def default_args(owner: type) -> dict[str, Json]:
    """Return every field at its default; null for a field without a default."""
    return {name: field.default for name, field in fields_of(owner).items()}


def resolve_args(
    owner: type,
    node: Node,
    path: str,
    diagnostics: Diagnostics,
    elsewhere: Collection[str] = (),
    beside: Collection[str] = (),
) -> dict[str, Json]:
    """Resolve a mapping of arguments; note mistakes and leave their fields at the default. Those
    that are given `elsewhere` may be missing. Other keys are allowed `beside` them, but have been
    taken out.
    """
    resolved = default_args(owner)
    known = fields_of(owner)
    entries = node.mapping
    assert entries is not None
    for name, entry in entries.items():
        if name not in known:
            diagnostics.add_key(entry, f"{path}.{name}", unknown_key(name, [*known, *beside]))
            continue
        value = resolve_field(known[name], entry, f"{path}.{name}", diagnostics)
        if value is not INVALID:
            resolved[name] = value
    for name, field in known.items():
        if field.required and name not in entries and name not in elsewhere:
            diagnostics.add(node, f"{path}.{name}", "found nothing; it is required")
    return resolved


class _Invalid:
    """The value of a field with a mistake."""


INVALID: Json = cast("Json", _Invalid())


def resolve_field(field: Field, node: Node, path: str, diagnostics: Diagnostics) -> Json:
    """Resolve one value, or note its mistakes and return `INVALID`."""
    if field.resolve is not None:
        return field.resolve(node, path, diagnostics)
    if field.nested is None:
        return _resolve_plain(field, node, path, diagnostics)
    if node.value is None and field.nullable:
        return None
    if isinstance(node.value, str) and "name" in fields_of(field.nested):
        node = Node({"name": node}, node.place, node.key_place)
        found = resolve_args(field.nested, node, path, diagnostics)
        return INVALID if diagnostics.is_broken(f"{path}.name") else found
    if node.mapping is None:
        names = ", ".join(fields_of(field.nested))
        null = " or null" if field.nullable else ""
        diagnostics.add(
            node, path, f"found {_text(node)}; allowed: a mapping with the keys {names}{null}"
        )
        return INVALID
    return resolve_args(field.nested, node, path, diagnostics)


def find_field(owner: type, parts: Sequence[str], more: Mapping[str, Field] = {}) -> Field | str:
    """Follow a dotted path into a declared dataclass, which may have `more` fields; return a text
    if it does not lead to a field.
    """
    names: Mapping[str, Field] = {**fields_of(owner), **more}
    for depth, part in enumerate(parts):
        if part not in names:
            return unknown_key(part, names)
        field = names[part]
        if depth == len(parts) - 1:
            return field
        if field.nested is None and Mapping in field.kinds and depth == len(parts) - 2:
            return replace(_ANYTHING, name=parts[-1])
        if field.nested is None:
            return f"{part!r} is a single value; it has no {parts[depth + 1]!r}"
        names = fields_of(field.nested)
    return "it names no field"


_ANYTHING = Field(
    name="",
    nested=None,
    kinds=frozenset({bool, int, float, str, types.NoneType}),
    required=False,
    default=None,
    adapter=TypeAdapter(JsonValue),
)
"""A field of a free mapping: what it may be is checked where its owner is known."""


def leaf_paths(owner: type, prefix: str) -> list[str]:
    """Return the dotted path of every field, nested ones included."""
    paths: list[str] = []
    for name, field in fields_of(owner).items():
        paths.append(f"{prefix}.{name}")
        if field.nested is not None:
            paths += leaf_paths(field.nested, f"{prefix}.{name}")
    return paths


def unknown_key(found: str, allowed: Mapping[str, object] | Sequence[str]) -> str:
    """Say that a key is unknown, which keys are known, and which key may have been meant."""
    names = list(allowed)
    known = ", ".join(names) if names else "none"
    return f"found the key {found!r}; allowed: {known}{suggest(found, names)}"


def check_keys(
    node: Node, allowed: Sequence[str], path: str, diagnostics: Diagnostics
) -> dict[str, Node]:
    """Return the entries of a mapping with known keys; note unknown keys, or that it is not a
    mapping.
    """
    entries = node.mapping
    if entries is None:
        message = f"found {_text(node)}; allowed: a mapping with the keys {', '.join(allowed)}"
        diagnostics.add(node, path, message)
        return {}
    for name, entry in entries.items():
        if name not in allowed:
            full = f"{path}.{name}" if path else name
            diagnostics.add_key(entry, full, unknown_key(name, allowed))
    return {name: entry for name, entry in entries.items() if name in allowed}


def name_and_args(item: Node, path: str, diagnostics: Diagnostics) -> tuple[str | None, Node]:
    """Return the name and the arguments of an item of a list: ``name``, or ``name: {...}``.

    Missing arguments, or null, become an empty mapping. For any other item, a mistake is noted and
    the name is None.
    """
    empty = Node({}, item.place)
    if isinstance(item.value, str):
        return item.value, empty
    if item.mapping is not None and len(item.mapping) == 1:
        name, args = next(iter(item.mapping.items()))
        return name, empty if args.value is None else args
    found = _text(item)
    message = f"found {found}; allowed: a name, or one name with its arguments (name: {{...}})"
    diagnostics.add(item, path, message)
    return None, empty


def constant(value: Json, place: Place) -> Node:
    """Make a node from a computed plain value."""
    if isinstance(value, Mapping):
        return Node({key: constant(item, place) for key, item in value.items()}, place)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Node([constant(item, place) for item in value], place)
    return Node(value, place)


def _resolve_plain(field: Field, node: Node, path: str, diagnostics: Diagnostics) -> Json:
    assert field.adapter is not None
    try:
        checked = field.adapter.validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError as error:
        for where, place, message in explain(error, node):
            diagnostics.add(place, ".".join([path, *where]), message + _or_null(field, message))
        return INVALID
    found: Json = field.adapter.dump_python(checked, mode="json", warnings=False)
    return found


def _or_null(field: Field, message: str) -> str:
    return " (or null)" if field.nullable and "allowed" in message else ""


def _field(spec: "dataclasses.Field[Any]", hint: Any) -> Field:
    nested = next((kind for kind in _kinds(hint) if dataclasses.is_dataclass(kind)), None)
    adapter: TypeAdapter[Any] | None = None if nested else TypeAdapter(hint)
    required = spec.default is MISSING and spec.default_factory is MISSING
    default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
    return Field(
        name=spec.name,
        nested=nested,
        kinds=frozenset(_kinds(hint)),
        required=required,
        default=None if required else _default(default, adapter),
        adapter=adapter,
    )


def _default(value: Any, adapter: "TypeAdapter[Any] | None") -> Json:
    """Return a default as JSON, coerced to its declared type like a written value."""
    if dataclasses.is_dataclass(value):
        owner: type = type(value)
        known = fields_of(owner)
        return {
            name: _default(getattr(value, name), field.adapter) for name, field in known.items()
        }
    if adapter is None:
        return None
    plain: Json = adapter.dump_python(value, mode="json", warnings=False)
    try:
        checked = adapter.validate_json(json.dumps(plain), strict=True)
    except ValidationError:
        return plain  # a default outside its own bounds means "not given"
    coerced: Json = adapter.dump_python(checked, mode="json", warnings=False)
    return coerced


def _union(hint: Any) -> list[Any]:
    """Return the members of a union, without annotations."""
    if get_origin(hint) is Annotated:
        return _union(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for member in get_args(hint) for kind in _union(member)]
    return [hint]


def _kinds(hint: Any) -> list[type]:
    kinds: list[type] = []
    for member in _union(hint):
        if get_origin(member) is Literal:
            kinds += [type(value) for value in get_args(member)]
        else:
            kind = get_origin(member) or member
            kinds += [kind] if isinstance(kind, type) else []
    return kinds


def _text(node: Node) -> str:
    return plain_text(node.plain())
