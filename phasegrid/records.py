"""What a plan and a metric job write about themselves, and why a stored trial is not the planned one. Torch-free."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phasegrid.arguments import Field, find_field
from phasegrid.declare import Metric
from phasegrid.jobs import Json, MetricJob, Plan, as_label, canonical_json
from phasegrid.recipe import LATER, Recipe
from phasegrid.schemas import trial_columns


def metric_fields(job: MetricJob, metric: Metric, seeds: Mapping[str, int]) -> dict[str, Json]:
    """Return the columns of a metric's row that say what it is; `seeds` maps trial keys to seeds."""
    of_cell = metric.over == "cell"
    first, second = job.trials[0], job.trials[1] if len(job.trials) > 1 else None
    return {
        "key": job.key,
        "metric": job.metric.name,
        "version": job.metric.version,
        "args": canonical_json(job.metric.args),
        "over": metric.over,
        "trials": list(job.trials),
        "trial_a": first,
        "trial_b": second,
        "seed_a": None if of_cell else seeds[first],
        "seed_b": None if of_cell or second is None else seeds[second],
    }


def plan_rows(plan: Plan, plan_hash: str) -> list[dict[str, Json]]:
    """Return the rows of a plan's table: one a trial of each cell."""
    axis_names = canonical_json(dict(plan.axis_names))
    return [
        {
            "sweep": plan.sweep,
            "plan_hash": plan_hash,
            "cell": cell.index,
            "facet": canonical_json([list(pair) for pair in cell.facet]),
            "load_path": plan.load_path,
            "load": as_number(cell.load),
            "load_label": as_label(cell.load),
            "temperature_path": plan.temperature_path,
            "temperature": as_number(cell.temperature),
            "temperature_label": as_label(cell.temperature),
            "axis_names": axis_names,
            "seed": trial.seed,
            "key": trial.key,
        }
        for cell in plan.cells
        for trial in cell.trials
    ]


def job_rows(plan: Plan) -> list[dict[str, Json]]:
    """Return the rows of the table of planned measurements: one a metric job of each cell."""
    return [
        {
            "cell": cell.index,
            "metric": job.metric.name,
            "key": job.key,
            "trials": list(job.trials),
        }
        for cell in plan.cells
        for job in cell.metric_jobs
    ]


def as_number(value: Json) -> float | None:
    """Return an axis value as a float, or None if it is no number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return None


def short_label(path: str, value: Json) -> str:
    """Return a value of a field as short text for people: of several fields together what is not at its default.

    >>> short_label("train.schedule", {"name": "step", "at_epochs": [75], "warmup_updates": 0})
    'step (at_epochs [75])'
    >>> short_label("train.stop", None)
    'none'
    """
    if not isinstance(value, Mapping):
        return (
            "none" if value is None else value if isinstance(value, str) else canonical_json(value)
        )
    section, *parts = path.split(".")
    field = find_field(Recipe, parts) if section == "train" and parts else ""
    default = field.default if isinstance(field, Field) else None
    usual = default if isinstance(default, Mapping) else {}
    changed = [
        f"{name} {canonical_json(inner)}"
        for name, inner in value.items()
        if name != "name" and not (name in usual and _same(usual[name], inner))
    ]
    own = value.get("name")
    if own is None:
        return ", ".join(changed) or "default"
    return f"{own} ({', '.join(changed)})" if changed else str(own)


def why_stale(
    plan: Plan, old_plan: Sequence[Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Name, for each planned trial whose place in the grid held another stored trial, what changed.

    `old_plan` are the rows of the sweep's plan as last stored, `stored` the rows of trials by key. Yields (key,
    change), where change reads ``train.lr: 0.05 -> 0.1``.
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
        was_unknown = before is None and name in LATER and value == LATER[name]
        if name == "key" or was_unknown or _same(before, value):
            continue
        changes.append(f"{name}: {_show(before)} -> {_show(value)}")
    return changes or ["the code's version"]


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, (list, tuple)):
        return list(a if a is not None else ()) == list(b)
    return bool(a == b)


def _show(value: Any) -> str:
    return "null" if value is None else str(value)
