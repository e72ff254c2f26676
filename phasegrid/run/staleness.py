"""Why a stored trial is not the planned one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phasegrid.jobs import Plan
from phasegrid.plan.rows import plan_rows, same_value
from phasegrid.store.schemas import recipe_columns, trial_columns
from phasegrid.train.recipe import LATER

_LATER = recipe_columns(LATER)


def why_stale(
    plan: Plan, old_plan: Sequence[Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Name, for each planned trial whose place in the grid held another stored trial, what changed.

    `old_plan` are the rows of the sweep's plan as last stored, `stored` the rows of trials by key.
    Yields (key, change), where change reads ``train.lr: 0.05 -> 0.1``.
    """
    places = {_place(row): str(row["key"]) for row in old_plan}
    for row in plan_rows(plan, ""):
        old = places.get(_place(row))
        key = str(row["key"])
        if old is None or old == key or old not in stored:
            continue
        trial = next(t for t in plan.cells[int(str(row["cell"]))].trials if t.key == key)
        yield key, ", ".join(_differences(stored[old], trial_columns(trial)))


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("facet", "load_path", "load_label", "temperature_path", "temperature_label", "seed")
    return tuple(row[name] for name in names)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes = []
    for name, value in new.items():
        before = old.get(name)
        was_unknown = before is None and name in _LATER and same_value(_LATER[name], value)
        if name == "key" or was_unknown or same_value(before, value):
            continue
        changes.append(f"{name}: {_show(before)} -> {_show(value)}")
    return changes or ["the code's version"]


def _show(value: Any) -> str:
    return "null" if value is None else str(value)
