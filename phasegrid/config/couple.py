"""Read the ``couple`` section: it ties fields of a trial to other fields.

An expression ties a number. A table ties a field of any kind: text, a number, null, or several
fields together such as ``train.schedule``. The keys of a table are values of its field `by`,
written as in that field: 16, "16" and 0x10 are one integer, 0.1 and 1e-1 one number. The field `by`
has a single value; it may be on an axis, and it may be tied itself. It may also be ``model.name``
or ``dataset.name`` if that is an axis.
"""

from collections.abc import Mapping, Sequence
from types import NoneType

from phasegrid.config.axes import Scale, overlap
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.expressions import (
    Expression,
    Table,
    Tie,
    order_by_reference,
    parse_expression,
)
from phasegrid.config.template import FROM, TrialTemplate, split_path
from phasegrid.config.validate import INVALID, Field, check_keys, resolve_field
from phasegrid.config.yaml import Node, Place, plain_text, resolve_scalar
from phasegrid.keys import Json, canonical_json
from phasegrid.texts import suggest

TABLE_KEYS = ("by", "values", "otherwise")
NAMES = ("dataset.name", "model.name")
_SINGLE = {bool, int, float, str, NoneType}


def read_couple(
    node: Node | None, scales: Sequence[Scale], template: TrialTemplate, diagnostics: Diagnostics
) -> dict[str, tuple[Tie, Node]]:
    """Return the expression or table of each tied field, by path, each after those it refers to."""
    if node is None or node.value is None:
        return {}
    if node.mapping is None:
        message = (
            f"found {plain_text(node.plain())}; allowed: a mapping from fields to expressions or"
            " tables"
        )
        diagnostics.add(node, "couple", message)
        return {}
    tied: dict[str, tuple[Tie, Node]] = {}
    for path, entry in node.mapping.items():
        tie = _read_tie(path, entry, scales, tied, template, diagnostics)
        if tie is None:
            diagnostics.mark_broken(path)  # mistakes that follow from its value are not reported
        else:
            tied[path] = (tie, entry)
    try:
        order = order_by_reference({path: tie for path, (tie, _) in tied.items()})
    except ValueError as error:
        diagnostics.add(node, "couple", f"fields refer to each other in a circle: {error}")
        for path in tied:
            diagnostics.mark_broken(path)
        return {}
    return {path: tied[path] for path in order}


def _read_tie(
    path: str,
    entry: Node,
    scales: Sequence[Scale],
    tied: Mapping[str, object],
    template: TrialTemplate,
    diagnostics: Diagnostics,
) -> Tie | None:
    where = f"couple.{path}"
    fields = template.fields(path)
    if isinstance(fields, str):
        diagnostics.add_key(entry, where, fields)
        return None
    if split_path(path)[1][0] == FROM:
        message = "the start of a stage cannot be tied; allowed: a value of the stage, or an axis"
        diagnostics.add_key(entry, where, message)
        return None
    if entry.mapping is None and not _are_numbers(fields):
        message = f"{path} is not a number; allowed: a table, {{by: ..., values: {{...}}}}"
        diagnostics.add_key(entry, where, message)
        return None
    other = next((s.axis.path for s in scales if overlap(path, s.axis.path)), None)
    other = other or next((p for p in tied if overlap(path, p)), None)
    if other is not None:
        message = f"{path} is given by the axis, expression or table {other} already"
        diagnostics.add_key(entry, where, message)
        return None
    if entry.mapping is not None:
        return _read_table(path, entry, where, template, diagnostics)
    return _read_expression(entry, where, template, diagnostics)


def _read_expression(
    entry: Node, where: str, template: TrialTemplate, diagnostics: Diagnostics
) -> Expression | None:
    text = str(entry.value) if isinstance(entry.value, (int, float)) else entry.value
    if not isinstance(text, str) or isinstance(entry.value, bool):
        message = (
            f"found {plain_text(entry.plain())}; allowed: a product or quotient, as in 0.05 *"
            " train.batch_size / 128, or a table, as in {by: train.batch_size, values: {16:"
            " 1}}"
        )
        diagnostics.add(entry, where, message)
        return None
    try:
        expression = parse_expression(text)
    except ValueError as error:
        diagnostics.add(entry, where, str(error))
        return None
    for name in expression.fields():
        fields = template.fields(name)
        if isinstance(fields, str) or not _are_numbers(fields):
            message = fields if isinstance(fields, str) else f"{name} is not a number"
            diagnostics.add(entry, where, message)
            return None
    return expression


def _are_numbers(fields: Mapping[str, Field]) -> bool:
    return all({int, float} & field.kinds for field in fields.values())


def _read_table(
    path: str, entry: Node, where: str, template: TrialTemplate, diagnostics: Diagnostics
) -> Table | None:
    """Resolve a table; if it cannot be used, note every mistake in it and return None."""
    scratch = Diagnostics()
    parts = check_keys(entry, TABLE_KEYS, where, scratch)
    by = _read_by(parts.get("by"), entry, f"{where}.by", template, scratch)
    listed = _read_listed(parts.get("values"), entry, where, scratch)
    values = [
        _resolve(path, node, f"{where}.values.{key}", template, scratch)
        for key, node in listed.items()
    ]
    otherwise = None
    if "otherwise" in parts:
        otherwise = _resolve(path, parts["otherwise"], f"{where}.otherwise", template, scratch)
    rows = {} if by is None else _rows(by, listed, f"{where}.values", template, scratch)
    diagnostics.take(scratch, "")
    if scratch.mistakes or by is None:
        return None
    keys = tuple((key, _key_place(node)) for key, node in listed.items())
    return Table(by, rows, keys, tuple(value for value in values if value is not None), otherwise)


def _read_by(
    node: Node | None, entry: Node, where: str, template: TrialTemplate, diagnostics: Diagnostics
) -> str | None:
    if node is None:
        diagnostics.add(entry, where, "found nothing; it is required, as in by: train.batch_size")
        return None
    by = node.value
    if not isinstance(by, str):
        found = plain_text(node.plain())
        diagnostics.add(node, where, f"found {found}; allowed: the path of a field")
        return None
    if by in NAMES:
        return by
    fields = template.fields(by)
    if isinstance(fields, str):
        diagnostics.add(node, where, fields)
        return None
    if not all(field.kinds <= _SINGLE for field in fields.values()):
        diagnostics.add(
            node, where, f"{by} is not a single value; allowed: text, a number or a truth"
        )
        return None
    return by


def _read_listed(
    node: Node | None, entry: Node, where: str, diagnostics: Diagnostics
) -> Mapping[str, Node]:
    allowed = "a mapping from values of the field it goes by, as in {16: 50, 32: 80}"
    if node is None:
        diagnostics.add(entry, f"{where}.values", f"found nothing; it is required: {allowed}")
        return {}
    if not node.mapping:
        found = plain_text(node.plain())
        diagnostics.add(node, f"{where}.values", f"found {found}; allowed: {allowed}")
        return {}
    return node.mapping


def _resolve(
    path: str, node: Node, where: str, template: TrialTemplate, diagnostics: Diagnostics
) -> Mapping[str, Json] | None:
    """Resolve a value for the tied field in each of its choices."""
    scratch = Diagnostics()
    resolved = template.resolve(path, node, scratch)
    for mistake in scratch.mistakes:
        place = Place(mistake.file, mistake.line, mistake.column)
        diagnostics.add(place, where, f"{mistake.path}: {mistake.message}")
    return resolved


def _rows(
    by: str,
    listed: Mapping[str, Node],
    where: str,
    template: TrialTemplate,
    diagnostics: Diagnostics,
) -> dict[str, dict[str, int]]:
    """Return the row of each value of `by`, in each choice of its section."""
    choices = list(template.choices[split_path(by)[0]])
    rows: dict[str, dict[str, int]] = {choice: {} for choice in choices}
    for index, (key, node) in enumerate(listed.items()):
        found, message = _key_in_choices(by, key, choices, template)
        if choices and not found:
            diagnostics.add_key(node, f"{where}.{key}", f"{by}: {message}")
        elif any(text in rows[choice] for choice, text in found.items()):
            value = next(iter(found.values()))
            diagnostics.add_key(node, f"{where}.{key}", f"found {value} twice, once as {key}")
        for choice, text in found.items():
            rows[choice][text] = index
    return rows


def _key_in_choices(
    by: str, key: str, choices: Sequence[str], template: TrialTemplate
) -> tuple[dict[str, str], str]:
    """Return the value of a key as canonical JSON, in each choice that allows it, and why a choice
    does not.
    """
    if by in NAMES:
        message = f"found {key!r}; allowed: {', '.join(choices)}{suggest(key, choices)}"
        return ({key: canonical_json(key)} if key in choices else {}), message
    fields = template.fields(by)
    assert not isinstance(fields, str)
    found: dict[str, str] = {}
    message = ""
    for choice, field in fields.items():
        value, why = _as_value(field, key, by)
        if value is INVALID:
            message = message or why
        else:
            found[choice] = canonical_json(value)
    return found, message


def _as_value(field: Field, key: str, path: str) -> tuple[Json, str]:
    """Resolve a key as a value of a field: as YAML reads it, or else as text; or say why it is not
    a value of that field.
    """
    place = Place("")
    try:
        readings: list[Json] = [resolve_scalar(key), key]
    except ValueError:  # not a number, or too large a number
        readings = [key]
    why = ""
    for reading in readings:
        assert reading is None or isinstance(reading, (bool, int, float, str))
        scratch = Diagnostics()
        value = resolve_field(field, Node(reading, place), path, scratch)
        if value is not INVALID:
            return value, ""
        if not why or str in field.kinds:
            why = scratch.mistakes[0].message
    return INVALID, why


def _key_place(node: Node) -> Place:
    return node.key_place or node.place
