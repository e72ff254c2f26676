"""Read from the store what runs printed and why jobs failed."""

import time
from collections.abc import Iterator
from typing import Any

from phasegrid.errors import StoreError, SweepError
from phasegrid.store import submissions
from phasegrid.store.failures import FALLBACK, LATER_DONE, read_failures
from phasegrid.store.store import Store


def from_store(
    store: Store, submission_id: str, follow: bool, poll_s: float = 5.0
) -> Iterator[str]:
    """Yield the stored log of a driver; with `follow`, also yield new text until the run has ended.

    Raises:
        StoreError: if the store knows no such submission, or has no log of it yet and `follow` is
        false.
    """
    record = submissions.read(store, submission_id)
    if record is None:
        known = ", ".join(s.id for s in submissions.read_all(store)[-3:]) or "none"
        raise StoreError(
            f"reading the log of {submission_id}: {store.url} has no such submission; the last"
            f" ones: {known}"
        )
    text = submissions.read_log(store, submission_id)
    if text is None and not follow:
        raise StoreError(
            f"reading the log of {submission_id}: its driver has not written one yet; --address"
            " asks the cluster"
        )
    yield text or ""
    num_shown = len(text or "")
    while follow and record is not None and record.ended_at is None:
        time.sleep(poll_s)
        record = submissions.read(store, submission_id)
        text = submissions.read_log(store, submission_id) or ""
        yield text[num_shown:]
        num_shown = max(num_shown, len(text))


def failures_text(store: Store, sweep: str | None, cell: int) -> str:
    """Return the tracebacks of all failed attempts at jobs of one cell (trainings and
    measurements), oldest first, and then its fallbacks.

    Raises:
        SweepError: if there is no such sweep or cell.
    """
    names = store.sweeps()
    name = names[0] if sweep is None and len(names) == 1 else sweep
    if name not in names:
        raise SweepError(
            f"logs of cell {cell}: found sweep {sweep!r}; sweeps in {store.url}:"
            f" {', '.join(names) or 'none'}"
        )
    rows = store.read_plan(name).select(["cell", "key"]).to_pylist()
    num_cells = max(row["cell"] for row in rows) + 1
    if not 0 <= cell < num_cells:
        raise SweepError(f"logs of cell {cell} of {name}: allowed: 0 to {num_cells - 1}")
    keys = _keys_in(cell, rows, store.read_table("plan_jobs", _OF_JOBS, [name]).to_pylist())
    damaged: list[StoreError] = []
    rows = read_failures(store, damaged.append).to_pylist()
    failures = [row for row in rows if row["key"] in keys]
    failures.sort(key=lambda row: row["created_at"])
    texts = [_failure_text(row) for row in failures if row["kind"] != FALLBACK]
    texts = texts or [f"nothing failed in cell {cell} of {name}"]
    texts += [_failure_text(row) for row in failures if row["kind"] == FALLBACK]
    return "\n\n".join([*texts, *(f"left out: {error}" for error in damaged)])


_OF_JOBS = ["cell", "key", "trials"]


def _keys_in(cell: int, trials: list[dict[str, Any]], jobs: list[dict[str, Any]]) -> set[str]:
    """Return the keys of the trials and measurements of a cell, and of the measurements across
    cells that measure one of its trials.
    """
    own = {row["key"] for row in trials if row["cell"] == cell}
    across = {
        row["key"] for row in jobs if row["cell"] is None and not own.isdisjoint(row["trials"])
    }
    return own | across | {row["key"] for row in jobs if row["cell"] == cell}


def _failure_text(row: dict[str, Any]) -> str:
    later = ", later done" if row[LATER_DONE] else ""
    return (
        f"{row['created_at']:%Y-%m-%d %H:%M:%S} {row['key']} ({row['kind']}, attempt"
        f" {row['attempt']}, on {row['host']}{later}):"
        f" {row['exception']}\n{row['traceback'] or 'its process died; there is no traceback'}"
    )
