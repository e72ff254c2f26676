"""Make the rows that describe a plan and a metric job in the store."""

from collections.abc import Mapping

from phasegrid.declare import Metric
from phasegrid.jobs import MetricJob
from phasegrid.keys import Json, as_label, canonical_json
from phasegrid.plan.contents import Plan


def metric_fields(job: MetricJob, metric: Metric, seeds: Mapping[str, int]) -> dict[str, Json]:
    """Return the columns of a metric's row that say what it is; `seeds` maps trial keys to
    seeds. `inputs` is null where these are the final weights of the trials.
    """
    over = job.request.over or metric.over
    of_cell = over == "cell" or (over == "across" and len(job.trials) > 2)
    first, second = job.trials[0], job.trials[1] if len(job.trials) > 1 else None
    return {
        "key": job.key,
        "metric": job.metric.name,
        "version": job.metric.version,
        "args": canonical_json(job.metric.args),
        "over": over,
        "inputs": inputs_text(job),
        "trials": list(job.trials),
        "trial_a": first,
        "trial_b": second,
        "seed_a": None if of_cell else seeds[first],
        "seed_b": None if of_cell or second is None else seeds[second],
    }


def plan_rows(plan: Plan, plan_hash: str) -> list[dict[str, Json]]:
    """Return the rows of a plan's table: one a trial of each cell, stage after stage."""
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
            "stage": stage,
        }
        for cell in plan.cells
        for stage, trial in cell.staged()
    ]


def job_rows(plan: Plan) -> list[dict[str, Json]]:
    """Return the rows of the table of planned measurements: one a metric job of each cell, and one
    without a cell for each across cells.
    """
    placed = [(cell.index, job) for cell in plan.cells for job in cell.metric_jobs]
    every = [*placed, *((None, job) for _, job in plan.across)]
    alike = {(id(job.metric), id(job.request)): job for _, job in every}  # few: those of requests
    said = {place: _said(job) for place, job in alike.items()}
    return [
        {
            "cell": cell,
            "key": job.key,
            "trials": list(job.trials),
            "inputs": inputs_text(job),
            **said[id(job.metric), id(job.request)],
        }
        for cell, job in every
    ]


def _said(job: MetricJob) -> dict[str, Json]:
    """Return the columns of a planned measurement that all of its request share."""
    request = job.request
    of = {"of": request.of} if request.of else {}
    asked = {**request.asked, **of}
    return {
        "metric": job.metric.name,
        "request": request.name,
        "args": canonical_json(job.metric.args),
        "asked": canonical_json(asked) if asked else None,
        "varied": "+".join(request.varied) or None,
    }


def inputs_text(job: MetricJob) -> str | None:
    """Return the artifacts that a job reads as canonical JSON, ``[[job, name], ...]``; None where
    these are the final weights of its trials.
    """
    return canonical_json([artifact.spec() for artifact in job.reads]) if job.reads else None


def as_number(value: Json) -> float | None:
    """Return an axis value as a float, or None if it is not a number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return None
