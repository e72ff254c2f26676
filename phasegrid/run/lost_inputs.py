"""Before anything starts, find the artifacts that missing jobs read but that are gone from the
store.
"""

from collections.abc import Collection, Iterator, Sequence

from phasegrid.jobs import Artifact, MetricJob, Trial
from phasegrid.plan.contents import Plan
from phasegrid.registry import declared_metric
from phasegrid.run.status import name_in
from phasegrid.store.lost import lost_artifacts
from phasegrid.store.store import Store

_MOST_SHOWN = 3


def lost_inputs(plan: Plan, store: Store, stored: Collection[str]) -> list[str]:
    """Return a line for each stored job of a plan whose artifacts are gone, if a missing job reads
    them. Nothing is looked up if no missing job reads the artifacts of a stored one.
    """
    wanted = dict.fromkeys(_read_by_jobs_to_do(plan, set(stored)))
    lost = lost_artifacts(store, wanted) if wanted else []
    name_of = name_in(plan)
    return [f"{artifact.name} of {name_of(artifact.job)}" for artifact in lost]


def lost_text(lost: Sequence[str], url: str) -> str:
    """Say which files are gone, and how to make them again."""
    more = f" and {len(lost) - _MOST_SHOWN} more" if len(lost) > _MOST_SHOWN else ""
    return (
        f"missing jobs will fail: the files of {'; '.join(lost[:_MOST_SHOWN])}{more} are gone; run"
        f" `phasegrid gc --damaged --delete --storage {url}`, then `phasegrid run` makes them again"
    )


def _read_by_jobs_to_do(plan: Plan, stored: set[str]) -> Iterator[Artifact]:
    """Yield the artifacts of stored jobs that missing jobs read."""
    for cell in plan.cells if stored else ():
        for trial in cell.trials:
            if trial.start is not None and trial.key not in stored:
                yield from _stored_start(trial, stored)
    for _, job in plan.metric_jobs() if stored else ():
        if job.key not in stored and not stored.isdisjoint(job.needs):
            networks = () if _reads_no_network(job) else job.networks
            yield from (a for a in (*networks, *job.sources) if a.job in stored)


def _reads_no_network(job: MetricJob) -> bool:
    """Say whether a measurement reads what another metric left of its networks in their place."""
    metric = declared_metric(job.metric.name)
    return metric.through is not None and any(a.name not in metric.reads for a in job.sources)


def _stored_start(trial: Trial, stored: set[str]) -> Iterator[Artifact]:
    assert trial.start is not None
    if trial.start.artifact.job in stored:
        yield trial.start.artifact
