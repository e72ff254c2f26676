"""Say what an interrupted run has stored, and how to go on."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from phasegrid.errors import ClusterError, DeviceError, StoreError
from phasegrid.packs import Outcome
from phasegrid.run.counts import open_jobs
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.status import stored_keys
from phasegrid.store.store import Store


@contextmanager
def saying_how_to_go_on(scheduler: Scheduler, store: Store) -> Iterator[None]:
    """Add to an error of the storage or the cluster what is stored and what to do."""
    try:
        yield
    except (StoreError, ClusterError) as error:
        if isinstance(error, ClusterError):
            with suppress(StoreError):
                count_published(scheduler, store)
        kept = f"stopped: what is finished is stored; {open_jobs(scheduler.counts)}."
        if isinstance(error, DeviceError):
            again = (
                "A new process can use it: run the same command again, best without --serial; then"
                " a job that does this again is named, and the others are done."
            )
            raise DeviceError(f"{error}\n{kept} {again}") from error
        if isinstance(error, ClusterError):
            again = "Run the same command again when a cluster is up."
            raise ClusterError(f"{error}\n{kept} {again}") from error
        again = "Run the same command again when the storage is well."
        raise StoreError(f"{error}\n{kept} {again}", error.fault) from error


def count_published(scheduler: Scheduler, store: Store) -> None:
    """Count the results that packs stored before a stop cut them off."""
    packs = scheduler.cut_off
    stored = stored_keys(store, sorted({j.metric.name for p in packs for j in p.metric_jobs}))
    for pack in packs:
        there = [Outcome(key, "already") for key in pack.job_keys() if key in stored]
        scheduler.finished(pack, there)
