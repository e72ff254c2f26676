"""Turn the exception of a job into values: a stored failure with its traceback, and an outcome."""

import traceback
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from phasegrid.errors import StoreError
from phasegrid.packs import Outcome, Pack
from phasegrid.redaction import redact
from phasegrid.run.worker import broken_devices
from phasegrid.store.provenance import provenance
from phasegrid.store.store import Store


def guarded(store: Store, pack: Pack, key: str, work: Callable[[], Outcome]) -> Outcome:
    """Do the work of a job; if it raises, store the failure and return it."""
    try:
        return work()
    except Exception as error:
        raise_if_of_no_job(error)
        return failed(store, pack, key, error)


def found_already(store: Store, pack: Pack, table: str, key: str) -> Outcome | None:
    """Return the outcome of a job that is stored, or that cannot be stored because its place is
    taken by something else; None if the job is still to do.
    """
    try:
        return Outcome(key, "already") if store.has(table, key) else None
    except StoreError as error:
        raise_if_of_no_job(error)
        return failed(store, pack, key, error)


def raise_if_of_no_job(error: Exception) -> None:
    """Raise the error if other jobs would meet it too: the storage fails, or the GPU is lost."""
    if isinstance(error, StoreError) and error.fault is not None:
        raise error
    broken_devices.raise_if_broken(error)


def failed(store: Store, pack: Pack, key: str, error: Exception) -> Outcome:
    """Store the failure of a job, with its traceback, and return the outcome."""
    text = "".join(traceback.format_exception(error))
    kind: Any = "oom" if _is_out_of_memory(error) else "app"
    summary = redact(f"{type(error).__name__}: {error}".removesuffix(": "))
    try:
        store.put_failure(
            {
                "id": uuid.uuid4().hex,
                "key": key,
                "pack": pack.key,
                "kind": kind,
                "exception": summary,
                "traceback": text[-8000:],
                "attempt": 1,
                "host": provenance("cpu")["host"],
                "created_at": datetime.now(UTC),
            }
        )
    except StoreError as lost:
        summary += f" (and the failure could not be written: {lost})"
    return Outcome(key, "failed", error=summary, kind=kind)


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether the memory of a GPU or CPU ran out; torch has no class of error for a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def all_failed(pack: Pack, store: Store, error: Exception) -> list[Outcome]:
    """Store the same failure for all jobs of a pack that are not stored."""
    tables = {job.key: f"metrics/{job.metric.name}" for job in pack.metric_jobs}
    return [
        (
            Outcome(key, "already")
            if store.has(tables.get(key, "trials"), key)
            else failed(store, pack, key, error)
        )
        for key in pack.job_keys()
    ]
