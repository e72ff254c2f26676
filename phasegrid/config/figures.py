"""Read the ``figures`` section: a list of additional figures, each a kind with its arguments.

Arguments that refer to the grid are checked against the grid, as the kind declares (`fits`). Labels
of cells may be written as numbers. Figures from a store go through the same checks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from phasegrid.config.axes import Scale
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.figure_needs import columns_of, unmet_needs
from phasegrid.config.labels import shown_labels
from phasegrid.config.references import References
from phasegrid.config.types import GridPoint, MetricRequest
from phasegrid.config.validate import constant, fields_of, name_and_args, resolve_args
from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.declare import FigureKind, FigureRequest, Grid
from phasegrid.errors import SweepError
from phasegrid.keys import Json, as_label, canonical_json
from phasegrid.metrics import METRICS
from phasegrid.registry import identity, resolve_figure
from phasegrid.user_code import where_raised

STANDARD_STEMS = (
    "diagram",
    "further",
    "curves",
    "cuts_load",
    "cuts_temperature",
    "phases",
    "thresholds",
)
"""The files that every sweep gets; no figure may have one of these names."""
NUMBERED_STEM = r"^further_[0-9]+$"
"""The names of those that several files share."""


_GRID = ("load", "temperature", "facets", "include", "exclude", "metrics")
"""The sections that figures are checked against."""


def read_figures(
    node: Node | None,
    sweep: str,
    points: Sequence[GridPoint],
    scales: Sequence[Scale],
    metrics: Sequence[MetricRequest],
    asked_in: str,
    references: References,
    diagnostics: Diagnostics,
) -> tuple[FigureRequest, ...]:
    """Resolve the list of figures of a sweep with these axes, points and metrics.

    `asked_in` names the file or the override that asks for the metrics. A figure of another one, a
    file that is extended, may also need built-in metrics that are not asked for; it is not drawn.
    """
    if node is None or node.value is None:
        return ()
    if node.items is None:
        message = f"found {plain_text(node.plain())}; allowed: a list of figures"
        diagnostics.add(node, "figures", message)
        return ()
    own = _grid(points, scales, metrics, diagnostics)
    other = own and replace(own, columns={**columns_of(METRICS), **own.columns})
    requests: list[FigureRequest] = []
    names: set[str] = set()
    for index, item in enumerate(node.items):
        name, args = name_and_args(item, f"figures.{index}", diagnostics)
        if name is None:
            continue
        where, grid = f"figures.{index}.{name}", own if item.place.file == asked_in else other
        try:
            kind = references.figure(name)
        except SweepError as error:
            entry = (item.mapping or {}).get(name, item)
            diagnostics.add_key(entry, f"figures.{index}", str(error))
            continue
        args = _with_text_labels(args, grid.labels if grid else {})
        request = _figure(name, kind, args, where, grid, diagnostics)
        if request is None:
            continue
        _check_name(request, names, args, where, diagnostics)
        _check_against(request, sweep, args, where, diagnostics)
        names.add(request.name)
        requests.append(request)
    return tuple(requests)


def with_defaults(
    requests: Sequence[FigureRequest],
) -> tuple[list[FigureRequest], list[tuple[str, str]]]:
    """Check figures from a store; arguments of newer releases get their defaults. Also return the
    figures whose kind is a plug-in that is not here, as (name, reason).

    Raises:
        ValueError: if a figure has an argument that its kind does not have; the message says which.
    """
    checked, absent = [], []
    for index, found in enumerate(requests):
        diagnostics = Diagnostics()
        args = constant(dict(found.args), Place(""))
        try:
            kind = resolve_figure(found.kind)
        except SweepError as error:
            if ":" not in found.kind:
                raise ValueError(f"item {index}: {error}") from error
            absent.append((found.name, str(error)))
            continue
        request = _figure(found.kind, kind, args, str(index), None, diagnostics)
        if request is None or diagnostics.mistakes:
            raise ValueError(f"item {index}: {diagnostics.mistakes[0].message}")
        checked.append(request)
    return checked, absent


def _grid(
    points: Sequence[GridPoint],
    scales: Sequence[Scale],
    metrics: Sequence[MetricRequest],
    diagnostics: Diagnostics,
) -> Grid | None:
    """Return what figures are checked against: the labels of the cells on each existing axis, in
    order, and the metrics; None if an earlier mistake hides some of it.
    """
    if not points or diagnostics.is_broken(*_GRID):
        return None
    values = {
        "load": [point.load for point in points],
        "temperature": [point.temperature for point in points],
    }
    labels: dict[str, Sequence[str]] = {}
    for axis in (scale.axis for scale in scales):
        if axis.role in values:
            stored = [str(as_label(value)) for value in values[axis.role]]
            shown = shown_labels(axis.path, stored)
            labels[axis.role] = list(dict.fromkeys(shown[label] for label in stored))
    return Grid(labels, len(points), columns_of(request.name for request in metrics))


def _figure(
    name: str,
    kind: FigureKind,
    args: Node,
    where: str,
    grid: Grid | None,
    diagnostics: Diagnostics,
) -> FigureRequest | None:
    """Resolve one figure; None if its arguments are not a mapping."""
    if args.mapping is None:
        found, names = plain_text(args.plain()), ", ".join(fields_of(kind.args))
        message = f"found {found}; allowed: a mapping with the keys {names}"
        diagnostics.add(args, where, message)
        return None
    resolved = resolve_args(kind.args, args, where, diagnostics)
    sound = not any(
        diagnostics.is_broken(f"{where}.{field}") for field in resolved if field != "name"
    )
    for field in ("quantities", "at"):
        if not diagnostics.is_broken(f"{where}.{field}"):
            _refuse_twice(_node(args, field), f"{where}.{field}", diagnostics)
    if grid is not None and sound:
        _check_fits(kind, resolved, args, where, grid, diagnostics)
    return FigureRequest(identity(name), resolved)


def _check_fits(
    kind: FigureKind,
    resolved: Mapping[str, Json],
    args: Node,
    where: str,
    grid: Grid,
    diagnostics: Diagnostics,
) -> None:
    """Note what does not fit the grid or is not measured: at its argument, or at the item of its
    argument.
    """
    broken = {field for field in resolved if diagnostics.is_broken(f"{where}.{field}")}
    try:
        found = [*kind.fits(resolved, grid), *unmet_needs(kind, resolved, list(grid.columns))]
    except Exception as error:  # a plug-in may raise anything
        found = [("", f"checking it raises {type(error).__name__}: {error}{_line(error)}")]
    for argument, message in found:
        if argument.partition(".")[0] in broken:
            continue
        diagnostics.add(args.below(argument), f"{where}.{argument}".rstrip("."), message)


def _line(error: Exception) -> str:
    place = where_raised(error)
    return f" ({place})" if place else ""


def _check_name(
    request: FigureRequest, names: set[str], args: Node, where: str, diagnostics: Diagnostics
) -> None:
    if diagnostics.is_broken(f"{where}.name"):
        return
    place, name = _node(args, "name"), request.name
    if name in STANDARD_STEMS or re.match(NUMBERED_STEM, name):
        taken = ", ".join([*STANDARD_STEMS, "further_1, further_2, ..."])
        message = f"found {name!r}, which every sweep has; allowed: a name that is none of {taken}"
        diagnostics.add(place, f"{where}.name", message)
    elif name in names:
        message = f"found {name!r} twice; each figure has a name of its own"
        diagnostics.add(place, f"{where}.name", message)


def _check_against(
    request: FigureRequest, sweep: str, args: Node, where: str, diagnostics: Diagnostics
) -> None:
    if request.args.get("against") == sweep and not diagnostics.is_broken("name"):
        message = f"found {sweep!r}, this sweep itself; allowed: the name of another one"
        diagnostics.add(_node(args, "against"), f"{where}.against", message)


def _refuse_twice(node: Node, path: str, diagnostics: Diagnostics) -> None:
    seen: set[str] = set()
    for index, item in enumerate(node.items or []):
        text = str(item.value)
        if text in seen:
            diagnostics.add(item, f"{path}.{index}", f"found {text!r} twice; each once")
        seen.add(text)


def _with_text_labels(args: Node, labels: Mapping[str, Sequence[str]]) -> Node:
    """Return the arguments with the numbers of `at` replaced by the labels of cells."""
    entries = dict(args.mapping or {})
    at = entries.get("at")
    if at is None or at.items is None:
        return args
    known = [label for role in labels for label in labels[role]]
    items = [Node(_label(item, known), item.place) for item in at.items]
    entries["at"] = Node(items, at.place, at.key_place)
    return Node(entries, args.place, args.key_place)


def _label(item: Node, labels: Sequence[str]) -> Any:
    """Return the label of a number or boolean (1 and 1.0 have the same); return anything else
    unchanged.
    """
    value = item.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return canonical_json(value) if isinstance(value, bool) else value
    return next((label for label in labels if _is_number(label, value)), canonical_json(value))


def _is_number(label: str, value: float) -> bool:
    try:
        return float(label) == value
    except ValueError:
        return False


def _node(args: Node, name: str) -> Node:
    """Return the node of an argument, or, if it is not written, the node of all arguments."""
    return (args.mapping or {}).get(name, args)
