"""The rows of the table of failures: of attempts that failed, with what has become of their jobs
since, and of what was done another way because the first way failed.
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
"""The `kind` of a row that tells of no failure: the job was done, in another way."""


def failure_of_pack(
    pack: Pack, kind: str, exception: str, traceback: str | None, attempt: int
) -> dict[str, object]:
    """Return the record of an attempt at a pack that ended as a whole.

    It names the job only where the pack has no other: which of several is to blame is not known.
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
    """Return the record of what was done another way, in a pack or (None) by the driver of a run.

    It names the first job of the pack, by which its sweep and its cell are found.
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
    """Say of each row whether it tells of something done another way, and of no failure."""
    return pc.equal(table["kind"], FALLBACK)


def read_failures(store: Store, pass_over: PassOver | None = None) -> pa.Table:
    """Read the table of failures, fallbacks included, with a column `LATER_DONE`: whether the job
    has a result by now.

    It is worked out when it is read, since rows never change; null where a row names no job, as of
    a pack that was lost as a whole. Damaged files are left out if `pass_over` is given, which is
    told of each.
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
