"""Make and read the rows of the table of failures: failed attempts (and whether their jobs have a
result by now), and fallbacks (the job was done in another way because the first way failed).
"""

import uuid
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from phasegrid.fallbacks import Fallback
from phasegrid.packs import Pack
from phasegrid.store.provenance import provenance
from phasegrid.store.store import Store
from phasegrid.store.tables import PassOver

LATER_DONE = "later_done"
FALLBACK = "fallback"
"""The `kind` of a row that reports a fallback: the job did not fail, it was done in another way."""


def failure_of_pack(
    pack: Pack, kind: str, exception: str, traceback: str | None, attempt: int
) -> dict[str, object]:
    """Return the record of an attempt whose whole pack failed.

    It names the job only if the pack has no other job: with several, the cause is unknown.
    """
    keys = pack.job_keys()
    others = "" if len(keys) == 1 else f" (one of the {len(keys)} jobs of its pack, or none)"
    return {
        "id": uuid.uuid4().hex,
        "key": keys[0] if len(keys) == 1 else None,
        "pack": pack.key,
        "kind": kind,
        "exception": exception + others,
        "traceback": traceback,
        "attempt": attempt,
        "host": provenance("cpu")["host"],
        "created_at": datetime.now(UTC),
    }


def fallback_of_pack(pack: Pack | None, fallback: Fallback) -> dict[str, object]:
    """Return the record of a fallback in a pack, or (None) in the driver of a run.

    It names the first job of the pack, so that readers can find its sweep and its cell.
    """
    return {
        "key": pack.job_keys()[0] if pack else None,
        "pack": pack.key if pack else None,
        "kind": FALLBACK,
        "exception": str(fallback),
        "traceback": fallback.traceback[-8000:],
        "attempt": 1,
        "host": provenance("cpu")["host"],
    }


def is_fallback(table: pa.Table) -> pa.Array:
    """Return for each row whether it reports a fallback and not a failure."""
    return pc.equal(table["kind"], FALLBACK)


def read_failures(store: Store, pass_over: PassOver | None = None) -> pa.Table:
    """Read the table of failures, fallbacks included, with a column `LATER_DONE`: whether the job
    has a result by now.

    The column is computed at every read, since rows never change. It is null where a row names no
    job (its whole pack was lost). If `pass_over` is given, damaged files are left out, and
    `pass_over` is called for each.
    """
    table = store.read_table("failures", pass_over=pass_over)
    keys = table["key"].to_pylist()
    stored: set[str] = set()
    if any(keys):
        stored = store.stored("trials").union(
            *(store.stored(f"metrics/{m}") for m in store.metrics())
        )
    done = [None if key is None else key in stored for key in keys]
    return table.append_column(LATER_DONE, pa.array(done, pa.bool_()))
