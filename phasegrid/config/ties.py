"""Compute the values of tied fields, cell by cell, each field after those it refers to."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from phasegrid.config.axes import Scale
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.expressions import Expression, Table, Tie, is_part_of, nearest_integer, tidy
from phasegrid.config.points import Point
from phasegrid.config.template import TrialTemplate, split_path
from phasegrid.config.validate import INVALID, Field, constant, resolve_field
from phasegrid.config.yaml import Node, plain_text
from phasegrid.keys import Json
from phasegrid.texts import suggest

Tied: TypeAlias = Mapping[str, tuple[Tie, Node]]
Blame: TypeAlias = Callable[[str, str, Point, str], None]


class Ties:
    """Computes tied fields and remembers what it resolved and looked up.

    `tied` holds the expressions and tables, each after those it needs. `blame(path, message, point,
    what)` notes a mistake of a cell, once for each path and `what`. Tables are checked against the
    values of the cells, unless earlier mistakes hide some values.
    """

    def __init__(
        self,
        tied: Tied,
        scales: Sequence[Scale],
        template: TrialTemplate,
        diagnostics: Diagnostics,
        blame: Blame,
    ) -> None:
        self._tied = tied
        self._scales = scales
        self._fields: dict[str, Mapping[str, Field]] = {}
        self._template = template
        self._diagnostics = diagnostics
        self._blame = blame
        sees_all = not diagnostics.is_broken("load", "temperature", "facets", "include", "exclude")
        self._tables = {
            path: tie
            for path, (tie, _) in tied.items()
            if isinstance(tie, Table) and sees_all and not diagnostics.is_broken(tie.by)
        }
        self._resolved: dict[tuple[str, str, Json], Json] = {}
        self._looked_up: dict[str, dict[str, int | None]] = {path: {} for path in tied}
        self._not_looked_up: set[str] = set()

    def values(self, names: Mapping[str, str], point: Point) -> dict[str, Json] | None:
        """Return the values of tied fields by path; if one cannot be computed, note why and return
        None.
        """
        tied: dict[str, Json] = {}
        failed: list[str] = []
        for path, (tie, node) in self._tied.items():
            if any(is_part_of(name, other) for other in failed for name in tie.fields()):
                failed.append(path)
                self._not_looked_up.add(path)
                continue
            if isinstance(tie, Table):
                value = self._tabled_value(path, tie, names, point, tied)
            else:
                value = self._tied_value(path, tie, node, names, point, tied)
            if value is INVALID:
                failed.append(path)
            else:
                tied[path] = value
        return None if failed else tied

    def _tied_value(
        self,
        path: str,
        expression: Expression,
        node: Node,
        names: Mapping[str, str],
        point: Point,
        tied: Mapping[str, Json],
    ) -> Json:
        try:
            value = expression.evaluate(lambda other: self._look_up(other, names, point, tied))
        except ValueError as error:
            self._blame(path, f"{expression.text!r}: {error}", point, "")
            return INVALID
        name = names[split_path(path)[0]]
        key = (path, name, value)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(path, name, value, expression, node, point)
        return self._resolved[key]

    def _resolve(
        self,
        path: str,
        name: str,
        value: int | float,
        expression: Expression,
        node: Node,
        point: Point,
    ) -> Json:
        """Resolve the result of an expression. If the field is an integer, a result between two
        integers is rounded, unless one of the two is out of bounds.
        """
        fields = self._fields.get(path)
        if fields is None:
            found = self._template.fields(path)
            assert not isinstance(found, str)
            fields = self._fields[path] = found
        tried: list[int | float] = [value]
        if fields[name].whole and isinstance(value, float):
            tried = [math.floor(tidy(value)), nearest_integer(value)]
            if tried[-1] == 0 != tidy(value):
                message = f"found {value}, which rounds to 0; allowed: 0 itself, or a whole number"
                self._blame(path, f"{expression.text!r}: {message}", point, "")
                return INVALID
        resolved: Json = None
        for number in tried:
            scratch = Diagnostics()
            resolved = resolve_field(fields[name], constant(number, node.place), path, scratch)
            for mistake in scratch.mistakes:
                message = mistake.message.replace(f"found {number};", f"found {value};")
                self._blame(path, f"{expression.text!r}: {message}", point, "")
            if resolved is INVALID:
                return INVALID
        return resolved

    def _tabled_value(
        self,
        path: str,
        table: Table,
        names: Mapping[str, str],
        point: Point,
        tied: Mapping[str, Json],
    ) -> Json:
        value = self._look_up(table.by, names, point, tied)
        row = table.row(names[split_path(table.by)[0]], value)
        self._looked_up[path][value if isinstance(value, str) else plain_text(value)] = row
        chosen = table.otherwise if row is None else table.values[row]
        if chosen is not None:
            return chosen[names[split_path(path)[0]]]
        if path in self._tables:
            message = (
                f"{table.by} is {plain_text(value)}, for which the table has no value; "
                f"allowed: {_listed([key for key, _ in table.keys])}, or write otherwise"
            )
            self._blame(path, message, point, plain_text(value))
        return INVALID

    def check_tables(self) -> None:
        """After every cell is built, note the keys of tables that no cell has."""
        for path, table in self._tables.items():
            looked_up = self._looked_up[path]
            if not looked_up or path in self._not_looked_up:
                continue
            for row, (key, place) in enumerate(table.keys):
                if row not in looked_up.values():
                    there = f"but {table.by} is {_listed(looked_up)} in this sweep"
                    message = f"found the key {key}, {there}; remove it{suggest(key, looked_up)}"
                    self._diagnostics.add(place, f"couple.{path}.values.{key}", message)

    def _look_up(
        self, path: str, names: Mapping[str, str], point: Point, tied: Mapping[str, Json]
    ) -> Json:
        section, parts = split_path(path)
        if path in ("dataset.name", "model.name"):
            return names[section]
        value: Json = self._template.choices[section][names[section]].args
        for scale, position in zip(self._scales, point, strict=True):
            if is_part_of(path, scale.axis.path):
                value = scale.values[position][names[section]]
                parts = _below(path, scale.axis.path)
        for other, given in tied.items():
            if is_part_of(path, other):
                value, parts = given, _below(path, other)
        for part in parts:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def _below(path: str, above: str) -> tuple[str, ...]:
    """Return the parts of a path below one of its parents."""
    return tuple(path[len(above) + 1 :].split(".")) if path != above else ()


def _listed(texts: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(texts), 200, placeholder="...")
