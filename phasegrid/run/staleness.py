"""Explain why a stored trial or measurement is not the planned one."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phasegrid.config.labels import same_value
from phasegrid.declare import later_defaults
from phasegrid.jobs import MetricJob
from phasegrid.plan.contents import Plan
from phasegrid.plan.rows import plan_rows
from phasegrid.registry import declared_metric
from phasegrid.store.artifacts import inputs_of
from phasegrid.store.schemas import recipe_columns, trial_columns
from phasegrid.train.recipe import LATER

_LATER = recipe_columns(LATER)


def why_stale(
    plan: Plan, old_plan: Sequence[Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """For each planned trial whose place in the grid held another stored trial, say what changed.

    `old_plan` holds the rows of the sweep's last stored plan, `stored` the rows of trials by key.
    Yields (key, change), where change reads ``train.lr: 0.05 -> 0.1``.
    """
    places = {_place(row): str(row["key"]) for row in old_plan}
    told = set[str]()  # cells may share a trial
    for row in plan_rows(plan, ""):
        old = places.get(_place(row))
        key = str(row["key"])
        if old is None or old == key or old not in stored or key in told:
            continue
        told.add(key)
        trial = next(t for t in plan.cells[int(str(row["cell"]))].trials if t.key == key)
        yield key, ", ".join(_differences(stored[old], trial_columns(trial)))


def why_measured_anew(
    plan: Plan, old_jobs: Sequence[Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """For each planned measurement that replaces a stored one of the same trials, say what changed:
    an argument or an input.

    `old_jobs` are the measurements of the sweep's last stored plan, `stored` the rows of
    measurements by key. Yields (key, change), where change reads ``ensemble: points: 3 -> 5`` or
    ``ensemble: its input curve, of connectivity: epochs: 1 -> 2``.
    """
    planned = {job.key: job for _, job in plan.metric_jobs()}
    before: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row in old_jobs:
        if row["key"] not in planned and row["key"] in stored:
            before.setdefault((row["metric"], tuple(row["trials"])), []).append(row["key"])
    old_keys = {row["key"] for row in old_jobs}
    causes: dict[str, str] = {}
    for job in sorted(planned.values(), key=lambda job: job.request.depth):
        waiting = before.get((job.metric.name, job.trials))
        if job.key in old_keys or not waiting:
            continue
        nearest = min(waiting, key=lambda key: len(_changes(job, stored[key])))
        waiting.remove(nearest)
        causes[job.key] = _cause(job, stored[nearest], causes)
        yield job.key, causes[job.key]


def _changes(job: MetricJob, old: Mapping[str, Any]) -> list[str]:
    """Say which arguments of a measurement differ from those of a stored row."""
    unsaid = later_defaults(declared_metric(job.metric.name).args)
    before, now = {**unsaid, **json.loads(old["args"])}, {**unsaid, **job.metric.args}
    return [
        f"{name}: {_show(before.get(name))} -> {_show(now.get(name))}"
        for name in dict.fromkeys([*before, *now])
        if not same_value(before.get(name), now.get(name))
    ]


def _cause(job: MetricJob, old: Mapping[str, Any], causes: Mapping[str, str]) -> str:
    """Say how a measurement differs from a stored row."""
    changes = _changes(job, old)
    if old["version"] != job.metric.version:
        return f"{job.metric.name}: {', '.join([*changes, 'its version'])}"
    read = {(a.job, a.name) for a in inputs_of(old["inputs"])}
    for artifact in job.reads:
        if (artifact.job, artifact.name) not in read:
            changes.append(
                f"its input {artifact.name}, of {causes.get(artifact.job, artifact.job)}"
            )
    return f"{job.metric.name}: {', '.join(changes)}"


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("facet", "load_path", "load_label", "temperature_path", "temperature_label", "seed")
    return (*(row[name] for name in names), row.get("stage"))


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
