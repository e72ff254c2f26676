"""Find what was measured at several places along trainings: one quantity, with these places as an
axis of its own.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.variants import resolve

Unit = Literal["epoch", "update"]
Place = tuple[Unit, int]
"""Where a training was measured: after so many epochs, or so many updates."""

_AT = re.compile(r"at=(update-)?(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Along:
    """A quantity along trainings: its `name` without a place, ``lambda_max[examples=300]``, and
    the names that it has at its places, in the order of time.
    """

    name: str
    names: dict[Place, str]


def split_place(name: str) -> tuple[str, Place | None]:
    """Return the name of a quantity without the place along trainings, and this place.

    >>> split_place("lambda_max[at=5, examples=300]"), split_place("train_loss[at=update-30]")
    (('lambda_max[examples=300]', ('epoch', 5)), ('train_loss', ('update', 30)))
    >>> split_place("lambda_max[at=averaged]")
    ('lambda_max[at=averaged]', None)
    """
    base, _, inside = name.partition("[")
    pieces = inside.removesuffix("]").split(", ")
    found = [match for piece in pieces if (match := _AT.fullmatch(piece))]
    if not found:
        return name, None
    left = ", ".join(piece for piece in pieces if piece != found[0][0])
    place: Place = ("update" if found[0][1] else "epoch", int(found[0][2]))
    return f"{base}[{left}]" if left else base, place


def measured_along(names: Iterable[str]) -> list[Along]:
    """Return the quantities among these that have two places along trainings or more, in the order
    of their first ones.
    """
    found: dict[str, dict[Place, str]] = {}
    for name in names:
        alone, place = split_place(name)
        if place is not None:
            found.setdefault(alone, {})[place] = name
    return [
        Along(alone, dict(sorted(places.items())))
        for alone, places in found.items()
        if len(places) > 1
    ]


def wanted_along(grid: SweepTables, asked: str, found: Sequence[Along]) -> list[Along]:
    """Return the quantities along trainings that a name asks for: the one that it resolves to, or,
    without arguments, every way in which it was measured.
    """
    table = grid.quantity(asked).table
    by_name = {one.name: one for one in found}
    name = resolve(asked, grid.shown(table), grid.plain.get(table, ""), by_name)
    if name is not None:
        return [by_name[name]]
    return [one for one in found if one.name.partition("[")[0] == asked]


def values_along_trainings(grid: SweepTables, chosen: Sequence[Along]) -> pd.DataFrame:
    """Return the numbers of quantities along trainings: a row for each measurement (``cell``,
    ``key``), ``unit`` and place (``at``), a column for each quantity.
    """
    at = {name: (one.name, *place) for one in chosen for place, name in one.names.items()}
    rows = grid.values[grid.values["quantity"].isin(at) & grid.values["value"].notna()]
    told = pd.DataFrame(
        [at[name] for name in rows["quantity"]], columns=["name", "unit", "at"], index=rows.index
    )
    seeds = [f"{a}+{b}" for a, b in zip(rows["seed_a"], rows["seed_b"], strict=True)]
    long = told.assign(cell=rows["cell"], key=seeds, value=rows["value"])
    wide = long.pivot(index=["cell", "key", "unit", "at"], columns="name", values="value")
    return wide.reset_index()


def along_table(table: pd.DataFrame, one: Along) -> pd.DataFrame:
    """Return the rows of aggregated quantities that are one along trainings, under its name, with
    the place as ``unit_of_at`` and ``at``.
    """
    parts = [
        table[table["quantity"] == name].assign(quantity=one.name, unit_of_at=unit, at=number)
        for (unit, number), name in one.names.items()
    ]
    return pd.concat(parts, ignore_index=True)


def grid_at(grid: SweepTables, place: Place) -> SweepTables:
    """Return a grid whose values are those measured at one place along trainings, under the names
    without it; what was measured in one way there has the plain name.
    """
    named = {str(name): split_place(str(name)) for name in grid.values["quantity"].unique()}
    there = {name: alone for name, (alone, at) in named.items() if at == place}
    ways: dict[str, set[str]] = {}
    for alone in there.values():
        ways.setdefault(alone.partition("[")[0], set()).add(alone)
    plain = {one: base for base, of in ways.items() if len(of) == 1 for one in of}
    called = {name: plain.get(alone, alone) for name, alone in there.items()}
    values = grid.values[grid.values["quantity"].isin(called)]
    values = values.assign(quantity=values["quantity"].map(called))
    return replace(grid, values=values, failures=grid.failures.iloc[:0])
