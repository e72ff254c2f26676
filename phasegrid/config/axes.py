"""Read the axes of a sweep: ``load``, ``temperature`` and ``facets``, each a path and its values.

Values are listed, or given by `start`, `stop`, `num` and `scale`: equally spaced (``linear``) or in
equal ratios (``log``, ``log2``; the same points, exact at powers of 10 and of 2). Computed values
are rounded to 12 significant digits, and to the nearest integer if the field is an integer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.template import TrialTemplate
from phasegrid.config.types import Axis
from phasegrid.config.validate import check_keys, constant
from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.keys import Json, canonical_json
from phasegrid.texts import suggest

MAX_VALUES = 10_000
SCALES = ("linear", "log", "log2")
RANGE_KEYS = ("start", "stop", "num", "scale")
KEYS = ("param", "values", *RANGE_KEYS, "label")

Role: TypeAlias = Literal["load", "temperature", "facet"]


@dataclass(frozen=True, slots=True)
class DraftAxis:
    """An axis as the file writes it: `where` is its place, and its path names the field that it
    varies.
    """

    role: Role
    where: str
    path: str
    entries: Mapping[str, Node]
    node: Node


@dataclass(slots=True)
class Scale:
    """An axis with its values in each choice of the section (see `TrialTemplate`). ``include`` may
    add values after the first `num_planned`, so the axis grows.
    """

    axis: Axis
    name: str
    values: list[Mapping[str, Json]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)
    num_planned: int = 0

    def value(self, position: int) -> Json:
        """Return a value as the first choice of the section resolves it."""
        return next(iter(self.values[position].values()))

    def append(self, resolved: Mapping[str, Json], node: Node) -> int:
        """Add a value and return its position."""
        self.values.append(resolved)
        self.nodes.append(node)
        self.positions[text_of(resolved)] = len(self.values) - 1
        return len(self.values) - 1


def text_of(resolved: Mapping[str, Json]) -> str:
    """Return a text that is the same for equal resolved values."""
    return canonical_json(next(iter(resolved.values())))


def draft_axes(entries: Mapping[str, Node], diagnostics: Diagnostics) -> list[DraftAxis]:
    """Return the axes of the file, in the order facets, load, temperature."""
    drafts: list[DraftAxis | None] = []
    facets = entries.get("facets")
    if facets is not None and facets.items is None and facets.value is not None:
        message = f"found {plain_text(facets.plain())}; allowed: a list of axes"
        diagnostics.add(facets, "facets", message)
    for index, node in enumerate(facets.items or [] if facets else []):
        drafts.append(_draft("facet", f"facets.{index}", node, diagnostics))
    roles: tuple[Role, Role] = ("load", "temperature")
    for role in roles:
        axis = entries.get(role)
        if axis is not None and axis.value is not None:
            drafts.append(_draft(role, role, axis, diagnostics))
    found = [draft for draft in drafts if draft is not None]
    _refuse_overlaps(found, diagnostics)
    return found


def names_on_axes(drafts: Sequence[DraftAxis]) -> dict[str, Sequence[Node]]:
    """Return the values of the axes over ``dataset.name`` and ``model.name``."""
    return {
        draft.path: draft.entries["values"].items or []
        for draft in drafts
        if draft.path in ("dataset.name", "model.name") and "values" in draft.entries
    }


def read_scale(draft: DraftAxis, template: TrialTemplate, diagnostics: Diagnostics) -> Scale | None:
    """Resolve an axis and its values; None if the axis cannot be used."""
    names_part = draft.path in ("dataset.name", "model.name")
    if not names_part:
        fields = template.fields(draft.path)
        if isinstance(fields, str):
            block = draft.path.rpartition(".")[0]
            if block in template.sections or not diagnostics.is_broken(f"{block}.name"):
                diagnostics.add(draft.entries["param"], f"{draft.where}.param", fields)
            return None
        if not fields:
            return None  # its section has no choice: reported already
    nodes = _values(draft, template, diagnostics)
    scale = Scale(Axis(draft.path, (), draft.role), _short_name(draft))
    for index, node in enumerate(nodes):
        resolved = _resolve(draft, f"{draft.where}.values.{index}", node, template, diagnostics)
        if resolved is None:
            continue
        if text_of(resolved) in scale.positions:
            diagnostics.add(*_twice(draft, index, node, resolved))
            if "values" not in draft.entries:
                break  # one cause, reported once
        else:
            scale.append(resolved, node)
    if not scale.values:
        return None
    label = _label(draft, diagnostics)
    scale.num_planned = len(scale.values)
    values = tuple(scale.value(position) for position in range(scale.num_planned))
    scale.axis = Axis(draft.path, values, draft.role, label)
    return scale


def resolve_value(
    scale: Scale, where: str, node: Node, template: TrialTemplate, diagnostics: Diagnostics
) -> Mapping[str, Json] | None:
    """Resolve a value of an axis that is written in ``include`` or ``exclude``."""
    draft = DraftAxis(scale.axis.role, where, scale.axis.path, {}, node)
    return _resolve(draft, where, node, template, diagnostics)


def _short_name(draft: DraftAxis) -> str:
    return draft.path if draft.role == "facet" else draft.role


def _resolve(
    draft: DraftAxis, where: str, node: Node, template: TrialTemplate, diagnostics: Diagnostics
) -> Mapping[str, Json] | None:
    section, _, rest = draft.path.partition(".")
    if rest == "name" and section in ("dataset", "model"):
        names = list(template.choices[section])
        if node.value in names:
            return {"": node.value if isinstance(node.value, str) else ""}
        if not draft.entries:  # a wrong name on the axis itself is reported by the look-up
            found = node.value if isinstance(node.value, str) else ""
            message = f"found {plain_text(node.plain())}; allowed: {', '.join(names)}"
            diagnostics.add(node, where, message + suggest(found, names))
        return None
    scratch = Diagnostics()
    resolved = template.resolve(draft.path, node, scratch)
    for mistake in scratch.mistakes:
        place = Place(mistake.file, mistake.line, mistake.column)
        diagnostics.add(place, where, f"{mistake.path}: {mistake.message}")
    return None if scratch.mistakes else resolved


def _draft(role: Role, where: str, node: Node, diagnostics: Diagnostics) -> DraftAxis | None:
    entries = check_keys(node, KEYS, where, diagnostics)
    if node.mapping is None:
        return None
    param = entries.get("param")
    if param is None:
        diagnostics.add(node, f"{where}.param", "found nothing; it is required, as in model.width")
        return None
    if not isinstance(param.value, str) or not param.value:
        message = f"found {plain_text(param.plain())}; allowed: the path of a field, as model.width"
        diagnostics.add(param, f"{where}.param", message)
        return None
    return DraftAxis(role, where, param.value, entries, node)


def _refuse_overlaps(drafts: Sequence[DraftAxis], diagnostics: Diagnostics) -> None:
    for index, draft in enumerate(drafts):
        for other in drafts[:index]:
            if overlap(draft.path, other.path):
                message = f"found {draft.path!r}, which {other.where} ({other.path}) varies too"
                diagnostics.add(draft.entries["param"], f"{draft.where}.param", message)


def overlap(path: str, other: str) -> bool:
    """Say whether two paths are the same, or one is part of the other."""
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _values(draft: DraftAxis, template: TrialTemplate, diagnostics: Diagnostics) -> list[Node]:
    given = [key for key in RANGE_KEYS if key in draft.entries]
    node = draft.entries.get("values")
    if node is None:
        return _range(draft, template, diagnostics)
    if given:
        message = f"found values and {', '.join(given)}; write one or the other"
        diagnostics.add_key(draft.entries[given[0]], f"{draft.where}.{given[0]}", message)
    if node.items is None:
        message = f"found {plain_text(node.plain())}; allowed: a list of values"
        diagnostics.add(node, f"{draft.where}.values", message)
        return []
    if not 1 <= len(node.items) <= MAX_VALUES:
        message = f"found {len(node.items)} values; allowed: 1 to {MAX_VALUES:,}"
        diagnostics.add(node, f"{draft.where}.values", message)
        return []
    return node.items


def _range(draft: DraftAxis, template: TrialTemplate, diagnostics: Diagnostics) -> list[Node]:
    missing = [key for key in ("start", "stop", "num") if key not in draft.entries]
    if missing:
        what = "no values" if len(missing) == 3 else f"no {' and no '.join(missing)}"
        message = f"found {what}; allowed: values, or start, stop, num and scale"
        diagnostics.add(draft.node, draft.where, message)
        return []
    scale = draft.entries.get("scale")
    how = "linear" if scale is None else scale.value
    if how not in SCALES:
        assert scale is not None
        found = how if isinstance(how, str) else ""
        message = f"found {plain_text(scale.plain())}; allowed: {', '.join(SCALES)}"
        diagnostics.add(scale, f"{draft.where}.scale", message + suggest(found, SCALES))
        return []
    ends = _ends(draft, how, diagnostics)
    whole = _takes_numbers(draft, template, diagnostics)
    if ends is None or whole is None:
        return []
    place = draft.entries["num"].place
    start, stop, num = ends
    computed = [_spaced(start, stop, num, index, str(how)) for index in range(num)]
    rounded = [math.floor(value + 0.5) if whole else value for value in computed]
    return [constant(value, place) for value in rounded]


def _ends(draft: DraftAxis, how: Json, diagnostics: Diagnostics) -> tuple[float, float, int] | None:
    fine = True
    for key in ("start", "stop"):
        node = draft.entries[key]
        value = node.value
        allowed = "a number" if how == "linear" else f"a number greater than 0 (scale is {how})"
        bad = not is_finite_number(value) or (how != "linear" and float(str(value)) <= 0)
        if bad or abs(float(str(value))) > 1e300:
            fine = False
            message = f"found {plain_text(node.plain())}; allowed: {allowed}"
            diagnostics.add(node, f"{draft.where}.{key}", message)
    num = draft.entries["num"].value
    if not isinstance(num, int) or isinstance(num, bool) or not 2 <= num <= MAX_VALUES:
        found = plain_text(draft.entries["num"].plain())
        message = f"found {found}; allowed: an integer from 2 to {MAX_VALUES:,}"
        diagnostics.add(draft.entries["num"], f"{draft.where}.num", message)
        return None
    start, stop = draft.entries["start"].value, draft.entries["stop"].value
    if not fine or not isinstance(start, (int, float)) or not isinstance(stop, (int, float)):
        return None
    if start == stop:
        message = f"found {stop}, the same as start; allowed: another number"
        diagnostics.add(draft.entries["stop"], f"{draft.where}.stop", message)
        return None
    return start, stop, num


def _takes_numbers(
    draft: DraftAxis, template: TrialTemplate, diagnostics: Diagnostics
) -> bool | None:
    """Say whether the field is an integer; None, and a mistake, if it is not a number."""
    fields = template.fields(draft.path)
    if isinstance(fields, str) or not all(
        {int, float} & field.kinds and field.nested is None for field in fields.values()
    ):
        message = f"{draft.path} is not a number; allowed: values"
        diagnostics.add(draft.entries["start"], f"{draft.where}.start", message)
        return None
    return any(field.whole for field in fields.values())


def _spaced(start: float, stop: float, num: int, index: int, how: str) -> float:
    if index in (0, num - 1):
        return stop if index else start
    share = index / (num - 1)
    if how == "linear":
        value = start * (1 - share) + stop * share
    elif how == "log":
        value = 10.0 ** (math.log10(start) * (1 - share) + math.log10(stop) * share)
    else:
        value = 2.0 ** (math.log2(start) * (1 - share) + math.log2(stop) * share)
    return float(f"{value:.12g}")


def _twice(
    draft: DraftAxis, index: int, node: Node, resolved: Mapping[str, Json]
) -> tuple[Node, str, str]:
    value = plain_text(next(iter(resolved.values())))
    if "values" in draft.entries:
        return node, f"{draft.where}.values.{index}", f"found {value} twice"
    message = f"rounding to integers gives {value} twice; lower num, or list the values"
    return draft.entries["num"], f"{draft.where}.num", message


def _label(draft: DraftAxis, diagnostics: Diagnostics) -> str | None:
    node = draft.entries.get("label")
    if node is None or node.value is None:
        return None
    if not isinstance(node.value, str):
        message = f"found {plain_text(node.plain())}; allowed: text"
        diagnostics.add(node, f"{draft.where}.label", message)
        return None
    return node.value


def is_finite_number(value: object) -> bool:
    """Say whether `value` is a number (not a bool) that is neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
