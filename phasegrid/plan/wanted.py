"""Let a measurement that several requests ask for leave what any of them wants. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from phasegrid.jobs import MetricJob, RequestFacts
from phasegrid.plan.contents import Cell


def leaving_alike(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with each measurement that several requests ask for leaving what any of them
    wants.
    """
    wanted: dict[str, set[str]] = {}
    for cell in cells:
        for job in cell.metric_jobs:
            wanted.setdefault(job.key, set()).update(job.request.wanted)
    facts: dict[tuple[int, tuple[str, ...]], RequestFacts] = {}

    def leaving(job: MetricJob) -> MetricJob:
        names = tuple(sorted(wanted[job.key]))
        if names == job.request.wanted:
            return job
        more = facts.setdefault((id(job.request), names), replace(job.request, wanted=names))
        return replace(job, request=more)

    return [
        replace(cell, metric_jobs=tuple(leaving(job) for job in cell.metric_jobs)) for cell in cells
    ]
