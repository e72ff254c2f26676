"""The row that a failed attempt leaves in the table of failures."""

import uuid
from datetime import UTC, datetime

from phasegrid.jobs import Pack
from phasegrid.provenance import provenance


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
