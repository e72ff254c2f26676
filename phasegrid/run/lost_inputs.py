"""Find, before anything starts, the stored artifacts that jobs to do read and that are gone."""

from collections.abc import Collection, Iterator, Sequence

from phasegrid.jobs import Artifact, Trial
from phasegrid.plan.contents import Plan
from phasegrid.run.status import name_in
from phasegrid.store.lost import lost_artifacts
from phasegrid.store.store import Store

_MOST_SHOWN = 3


def lost_inputs(plan: Plan, store: Store, stored: Collection[str]) -> list[str]:
    """Return a line for each stored job of a plan that left what a job to do reads, if that is
    gone. Nothing is looked up if no job to do reads what is stored.
    """
    wanted = dict.fromkeys(_read_by_jobs_to_do(plan, set(stored)))
    lost = lost_artifacts(store, wanted) if wanted else []
    name_of = name_in(plan)
    return [f"{artifact.name} of {name_of(artifact.job)}" for artifact in lost]


def lost_text(lost: Sequence[str], url: str) -> str:
    """Say what is gone, and how to do it again."""
    more = f" and {len(lost) - _MOST_SHOWN} more" if len(lost) > _MOST_SHOWN else ""
    return (
        f"jobs to do will fail: the files of {'; '.join(lost[:_MOST_SHOWN])}{more} are gone; run"
        f" `phasegrid gc --damaged --delete --storage {url}`, then `phasegrid run` does again what"
        " left them"
    )


def _read_by_jobs_to_do(plan: Plan, stored: set[str]) -> Iterator[Artifact]:
    """Yield the artifacts of stored jobs that the jobs to do read."""
    for cell in plan.cells if stored else ():
        for trial in cell.trials:
            if trial.start is not None and trial.key not in stored:
                yield from _stored_start(trial, stored)
    for _, job in plan.metric_jobs() if stored else ():
        if job.key not in stored and not stored.isdisjoint(job.needs):
            yield from (a for a in (*job.networks, *job.sources) if a.job in stored)


def _stored_start(trial: Trial, stored: set[str]) -> Iterator[Artifact]:
    assert trial.start is not None
    if trial.start.artifact.job in stored:
        yield trial.start.artifact
