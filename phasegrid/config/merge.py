"""Merge files into one tree of nodes: first ``extends``, then ``--set``. Every node keeps its
place.

A sweep that extends others is merged over them, mapping by mapping; lists and tables of ``couple``
are replaced. If the child names another data set or model (`name`) or another `param` of an axis,
it replaces that section; ``values`` of an axis replace a parent's ``start``, ``stop``, ``num``,
``scale``, and the other way round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.mapping import NAME as MAPPING
from phasegrid.config.mapping import from_mapping
from phasegrid.config.yaml import Node, Place, YamlError, plain_text, read_file, read_text
from phasegrid.texts import suggest

MAX_FILES = 32
RANGE_KEYS = ("start", "stop", "num", "scale")
_REPLACING_KEY = {"dataset": "name", "model": "name", "load": "param", "temperature": "param"}


def read_sweep(
    source: Path | Mapping[str, object], overrides: Sequence[str], diagnostics: Diagnostics
) -> Node | None:
    """Read a sweep file (or the mapping that such a file holds), the files that it extends, and
    overrides ``path=value``. Return None if nothing can be read.
    """
    if isinstance(source, Path):
        root = _read_with_parents(source, str(source), [], diagnostics)
    else:
        own, misread = from_mapping(source)
        diagnostics.add_misread(misread)
        root = _with_parents(own, Path(MAPPING), [], diagnostics)
    if root is None:
        return None
    for number, text in enumerate(overrides, start=1):
        root = _override(root, text, f"--set #{number}", diagnostics)
    return root


def merge(parent: Node, child: Node, section: str = "") -> Node:
    """Merge a child over a parent: mappings key by key; otherwise the child replaces the parent."""
    if parent.mapping is None or child.mapping is None or section.startswith("couple."):
        return child
    replacing = _REPLACING_KEY.get(section)
    if replacing is not None and _names_another(parent.mapping, child.mapping, replacing):
        return child
    inherited = dict(parent.mapping)
    if section in ("load", "temperature"):
        inherited = _without_other_form(inherited, child.mapping)
    for key, node in child.mapping.items():
        full = f"{section}.{key}" if section else key
        inherited[key] = merge(inherited[key], node, full) if key in inherited else node
    return replace(child, value=inherited)


def _names_another(parent: dict[str, Node], child: dict[str, Node], key: str) -> bool:
    return key in parent and key in child and parent[key].plain() != child[key].plain()


def _without_other_form(entries: dict[str, Node], given: dict[str, Node]) -> dict[str, Node]:
    if "values" in given:
        return {key: node for key, node in entries.items() if key not in RANGE_KEYS}
    if any(key in given for key in RANGE_KEYS):
        return {key: node for key, node in entries.items() if key != "values"}
    return entries


def _read_with_parents(
    path: Path, name: str, above: list[Path], diagnostics: Diagnostics
) -> Node | None:
    try:
        root, misread = read_file(path, name)
    except YamlError as error:
        diagnostics.add_misread([error.mistake])
        return None
    diagnostics.add_misread(misread)
    return _with_parents(root, path, above, diagnostics)


def _with_parents(
    root: Node, path: Path, above: list[Path], diagnostics: Diagnostics
) -> Node | None:
    """Merge what was read from `path` over the sweeps that it extends."""
    if root.mapping is None:
        found = plain_text(root.plain())
        diagnostics.add(root, "", f"found {found}; a sweep is a mapping that starts with schema: 1")
        return None
    entries = dict(root.mapping)
    extends = entries.pop("extends", None)
    own = replace(root, value=entries)
    if extends is None:
        return own
    parents = extends.items if extends.items is not None else [extends]
    merged: Node | None = None
    for node in parents:
        parent = _read_parent(path, node, [*above, path.resolve()], diagnostics)
        if parent is not None:
            merged = parent if merged is None else merge(merged, parent)
    return own if merged is None else merge(merged, own)


def _read_parent(
    path: Path, node: Node, above: list[Path], diagnostics: Diagnostics
) -> Node | None:
    if not isinstance(node.value, str) or not node.value:
        found = plain_text(node.plain())
        diagnostics.add(
            node, "extends", f"found {found}; allowed: the path of a sweep file, or a list"
        )
        return None
    target = path.parent / node.value
    try:
        resolved = target.resolve()
        exists = resolved.is_file()
    except (OSError, ValueError):  # a name that no file can have
        resolved, exists = target, False
    if not exists:
        diagnostics.add(
            node, "extends", f"there is no file {target}; the path is relative to {path}"
        )
        return None
    if resolved in above:
        circle = " -> ".join(p.name for p in [*above[above.index(resolved) :], resolved])
        diagnostics.add(node, "extends", f"sweeps extend each other in a circle: {circle}")
        return None
    if len(above) >= MAX_FILES:
        diagnostics.add(node, "extends", f"more than {MAX_FILES} files extend each other")
        return None
    return _read_with_parents(resolved, str(target), above, diagnostics)


def _override(root: Node, text: str, name: str, diagnostics: Diagnostics) -> Node:
    place = Place(name)
    path, equals, value = text.partition("=")
    path = path.strip()
    parts = path.split(".")
    if not equals or not all(parts):
        diagnostics.add(place, "", f"found {text!r}; allowed: path=value, as in train.lr=0.1")
        return root
    if parts[0] == "extends":
        diagnostics.add(place, path, "cannot be set; write it in the file")
        return root
    node = Node(None, place, place)
    if value.strip():
        try:
            node, misread = read_text(value, name, with_lines=False, above=path)
        except YamlError as error:
            diagnostics.add(place, path, error.mistake.message)
            return root
        diagnostics.add_misread(misread)
    if parts[0] == "couple" and len(parts) > 2:
        parts = ["couple", ".".join(parts[1:])]
    try:
        return _set(root, parts, replace(node, key_place=place), place)
    except _PathError as error:
        diagnostics.add(place, path, str(error))
        return root


class _PathError(Exception):
    """An override that leads nowhere; the text says why."""


def _set(node: Node, parts: Sequence[str], new: Node, place: Place, section: str = "") -> Node:
    """Return `node` with the value at a path replaced; add missing mappings on the way."""
    if not parts:
        return new
    head, rest = parts[0], parts[1:]
    if node.items is not None:
        items = list(node.items)
        index = _index(items, head)
        if section in ("metrics", "figures") and rest:
            items[index], rest = _below_name(items[index], rest, place)
        items[index] = _set(items[index], rest, new, place)
        return replace(node, value=items)
    if node.mapping is None and node.value is not None:
        raise _PathError(f"found {plain_text(node.plain())} before {head!r}; it has no parts")
    entries = dict(node.mapping or {})
    if section in ("load", "temperature"):
        entries = _without_other_form(entries, {head: new})
    child = entries.get(head) or Node({} if rest else None, place, place)
    below = head if not section else f"{section}.{head}"
    changed = _set(child, rest, new, place, below)
    entries[head] = replace(changed, key_place=child.key_place or place)
    return replace(node, value=entries)


def _below_name(item: Node, rest: Sequence[str], place: Place) -> tuple[Node, Sequence[str]]:
    """Return a metric or figure as a mapping from its name, and the path below it; the path may
    repeat the name.
    """
    if isinstance(item.value, str):
        item = Node({item.value: Node({}, place, place)}, item.place)
    if item.mapping is None or len(item.mapping) != 1:
        return item, rest
    name = next(iter(item.mapping))
    return item, rest if rest[0] == name else [name, *rest]


def _index(items: Sequence[Node], head: str) -> int:
    """Return the index that an override means in a list: a number, or the name of a metric or kind
    of a figure that occurs there once.
    """
    if head.isdecimal() and len(head) < 10:
        if int(head) < len(items):
            return int(head)
        raise _PathError(f"found item {head}; allowed: 0 to {len(items) - 1}")
    names = [next(iter(item.mapping), "") if item.mapping else str(item.value) for item in items]
    if names.count(head) == 1:
        return names.index(head)
    how = "stands here more than once: give its number" if head in names else "is no item here"
    raise _PathError(f"{head!r} {how}; items: {', '.join(names)}{suggest(head, names)}")
