"""List the points of the grid: the product of the axes, without ``exclude``, plus ``include``.

A point is a tuple of positions on the axes, in the order facets, load, temperature.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TypeAlias

from phasegrid.config.axes import Scale, resolve_value, text_of
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.template import TrialTemplate
from phasegrid.config.validate import unknown_key
from phasegrid.config.yaml import Node, plain_text
from phasegrid.texts import suggest

Point: TypeAlias = tuple[int, ...]

MAX_CELLS = 200_000


def choose_points(
    scales: Sequence[Scale],
    entries: Mapping[str, Node],
    root: Node,
    template: TrialTemplate,
    diagnostics: Diagnostics,
) -> list[Point]:
    """Return the points of the grid in order; included values follow the values of the axis."""
    count = math.prod(len(scale.values) for scale in scales)
    if count > MAX_CELLS:
        diagnostics.add(
            root, "", f"found a grid of {count:,} cells; allowed: at most {MAX_CELLS:,}"
        )
        return []
    points = set(product(*(range(len(scale.values)) for scale in scales)))
    for index, node in _listed(entries.get("exclude"), "exclude", diagnostics):
        matched = _matched(scales, f"exclude.{index}", node, template, diagnostics)
        if matched is not None and not points & matched:
            message = "matches nothing that is still in the grid; remove it"
            diagnostics.add(node, f"exclude.{index}", message)
        points -= matched or set()
    for index, node in _listed(entries.get("include"), "include", diagnostics):
        point = _included(scales, f"include.{index}", node, template, diagnostics)
        if point in points:
            diagnostics.add(node, f"include.{index}", "is in the grid already; remove it")
        elif point is not None:
            points.add(point)
    if not points and not diagnostics.is_broken("exclude", "include"):
        diagnostics.add(entries.get("exclude", root), "exclude", "leaves no cell of the grid")
    return sorted(points)


def _listed(node: Node | None, path: str, diagnostics: Diagnostics) -> list[tuple[int, Node]]:
    if node is None or node.value is None:
        return []
    if node.items is None:
        message = f"found {plain_text(node.plain())}; allowed: a list of mappings"
        diagnostics.add(node, path, message)
        return []
    return list(enumerate(node.items))


def _by_scale(
    scales: Sequence[Scale], path: str, node: Node, diagnostics: Diagnostics
) -> dict[int, Node] | None:
    """Return the entries of a point or pattern by the position of their axis."""
    names = [scale.name for scale in scales]
    if node.mapping is None or not node.mapping:
        found = plain_text(node.plain())
        message = (
            f"found {found}; allowed: a mapping with the keys {', '.join(names) or '(no axes)'}"
        )
        diagnostics.add(node, path, message)
        return None
    found_at: dict[int, Node] = {}
    fine = True
    for key, entry in node.mapping.items():
        position = next((i for i, s in enumerate(scales) if key in (s.name, s.axis.path)), None)
        if position is None:
            fine = False
            diagnostics.add_key(entry, f"{path}.{key}", unknown_key(key, names))
        elif position in found_at:
            fine = False
            diagnostics.add_key(entry, f"{path}.{key}", f"names the axis {names[position]} again")
        else:
            found_at[position] = entry
    return found_at if fine else None


def _included(
    scales: Sequence[Scale],
    path: str,
    node: Node,
    template: TrialTemplate,
    diagnostics: Diagnostics,
) -> Point | None:
    entries = _by_scale(scales, path, node, diagnostics)
    if entries is None:
        return None
    missing = [scale.name for index, scale in enumerate(scales) if index not in entries]
    if missing:
        message = f"found no {' and no '.join(missing)}; a point has a value on each axis"
        diagnostics.add(node, path, message)
        return None
    point: list[int] = []
    for index, scale in enumerate(scales):
        where = f"{path}.{scale.name}"
        resolved = resolve_value(scale, where, entries[index], template, diagnostics)
        if resolved is None:
            return None
        known = scale.positions.get(text_of(resolved))
        point.append(scale.append(resolved, entries[index]) if known is None else known)
    return tuple(point)


def _matched(
    scales: Sequence[Scale],
    path: str,
    node: Node,
    template: TrialTemplate,
    diagnostics: Diagnostics,
) -> set[Point] | None:
    """Return every point that a pattern matches; a pattern matches any value on an axis that it
    omits.
    """
    entries = _by_scale(scales, path, node, diagnostics)
    if entries is None:
        return None
    chosen: list[list[int]] = []
    for index, scale in enumerate(scales):
        if index not in entries:
            chosen.append(list(range(len(scale.values))))
            continue
        entry = entries[index]
        several = entry.items is not None and not isinstance(scale.value(0), (list, tuple))
        positions = [
            _position(scale, f"{path}.{scale.name}", item, template, diagnostics)
            for item in (entry.items or [] if several else [entry])
        ]
        chosen.append([position for position in positions if position is not None])
    if not all(chosen):
        if not diagnostics.is_broken(path):
            diagnostics.add(node, path, "names no value of an axis; remove it")
        return None
    return set(product(*chosen))


def _position(
    scale: Scale, where: str, node: Node, template: TrialTemplate, diagnostics: Diagnostics
) -> int | None:
    resolved = resolve_value(scale, where, node, template, diagnostics)
    if resolved is None:
        return None
    position = scale.positions.get(text_of(resolved))
    if position is None:
        values = [plain_text(value) for value in scale.axis.values]
        found = plain_text(node.plain())
        known = plain_text(list(scale.axis.values), 200)
        hint = suggest(found, values) if isinstance(node.value, str) else ""
        message = f"found {found}, which is not on the axis; allowed: {known}"
        diagnostics.add(node, where, message + hint)
    return position
