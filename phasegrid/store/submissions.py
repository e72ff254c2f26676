"""Record in the store the runs that were submitted to a cluster. This module asks no cluster, so it
also works when the cluster is gone.

meta/submissions/<id>.json        what was submitted where; when its driver started, was last seen
                                  and ended, and how
meta/submissions/<id>.now         asks the driver to end without waiting for running packs
logs/<id>.txt                     what the driver printed

The submitting process writes the record first, if it can reach the store; later only the driver
writes it. An id is never reused.
"""

import json
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from phasegrid.errors import StoreError
from phasegrid.store.files.errors import reported
from phasegrid.store.provenance import provenance
from phasegrid.store.store import Store
from phasegrid.store.tables import checked_name, is_name
from phasegrid.texts import duration
from phasegrid.version import __version__

FOLDER = "meta/submissions"
VARIABLE = "PHASEGRID_SUBMISSION_ID"  # the environment variable that tells a driver its id
SILENT_AFTER_S = (
    50.0  # a driver reports every 15 s (driver.EVERY_S); three missing reports are not an accident
)
MEANINGS = {
    0: "everything planned is stored",
    1: "some jobs failed",
    2: "a usage or sweep error",
    3: "stopped before the end",
    4: "storage or cluster",
    130: "Ctrl-C",
    137: "killed",
    143: "stopped",
}
_AGAIN = "submit the sweep again to go on"
State: TypeAlias = Literal["pending", "running", "silent", "lost", "ended"]


@dataclass(frozen=True, slots=True)
class Submission:
    """One submission. Times are ISO 8601 in UTC; None for events that have not happened or are
    unknown.
    """

    id: str
    sweep: str
    created_at: str
    address: str | None = None
    settings: tuple[str, ...] = ()
    phasegrid_version: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    started_at: str | None = None
    seen_at: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a cluster says about a submission; `status` as Ray Jobs spells it, None if the cluster
    does not know the submission.
    """

    id: str
    status: str | None
    exit_code: int | None = None
    message: str | None = None
    sweep: str | None = None

    @property
    def over(self) -> bool:
        """Say whether the submission will never run again."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


def draw_id(name: str, now: datetime) -> str:
    """Return a new unique id: name, time (UTC) and 32 random bits.

    >>> draw_id("my sweep", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))[:-8]
    'pg-my-sweep-20260102T030405-'
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")[:60]
    return f"pg-{plain or 'sweep'}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def now_text() -> str:
    """Return the current time in the format of the records."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def create(store: Store, submission: Submission) -> bool:
    """Write the record of a new submission, unless its driver has written it already; return
    whether this call wrote it.
    """
    with reported(f"recording submission {submission.id} in {store.url}"):
        return store.files.create(_name(submission.id), _encode(submission))


def replace_record(store: Store, submission: Submission) -> None:
    """Replace a record."""
    data = _encode(submission)
    with reported(f"recording submission {submission.id} in {store.url}"):
        store.files.replace(_name(submission.id), lambda file: file.write(data))


def read(store: Store, submission_id: str) -> Submission | None:
    """Return the record of a submission; None where the store has none.

    Raises:
        StoreError: if it is damaged or cannot be read.
    """
    name = _name(submission_id)
    with reported(f"reading submission {submission_id} of {store.url}"):
        try:
            return _decode(store.files.read(name), store.files.path(name))
        except FileNotFoundError:
            return None


def ids(store: Store) -> list[str]:
    """Return the ids of every submission that has a record, readable or not."""
    with reported(f"listing submissions of {store.url}"):
        found = store.files.names(FOLDER)
    names = [name.removesuffix(".json") for name in found if name.endswith(".json")]
    return sorted(name for name in names if is_name(name))


def path(store: Store, submission_id: str) -> str:
    """Return where the record of a submission is, or would be."""
    return store.files.path(_name(submission_id))


def read_all(store: Store, sweep: str | None = None) -> list[Submission]:
    """Return the records of all submissions, or of one sweep's, oldest first; log and leave out
    damaged ones.
    """
    found = [_read_if_whole(store, submission_id) for submission_id in ids(store)]
    wanted = [s for s in found if s is not None and sweep in (None, s.sweep)]
    return sorted(wanted, key=lambda s: (s.created_at, s.id))


def _read_if_whole(store: Store, submission_id: str) -> Submission | None:
    try:
        return read(store, submission_id)
    except StoreError as error:
        if not error.damaged:
            raise
        logging.getLogger("phasegrid").warning("%s", error)
        return None


def ask_to_hurry(store: Store, submission_id: str) -> None:
    """Ask the driver not to wait for running packs when it is told to stop."""
    with reported(f"asking submission {submission_id} to end at once"):
        store.files.create(_hurry_name(submission_id), b"now\n")


def must_hurry(store: Store, submission_id: str) -> bool:
    """Say whether `ask_to_hurry` was called."""
    with reported(f"looking for a request to submission {submission_id}"):
        return store.files.exists(_hurry_name(submission_id))


def log_name(submission_id: str) -> str:
    """Return the name of a submission's log within the store's logs."""
    return f"{checked_name(submission_id, 'submission')}.txt"


def read_log(store: Store, submission_id: str) -> str | None:
    """Return the text of a driver's log; None if the driver never wrote one."""
    with reported(f"reading the log of {submission_id} of {store.url}"):
        try:
            return store.files.read(f"logs/{log_name(submission_id)}").decode(errors="replace")
        except FileNotFoundError:
            return None


def state_of(submission: Submission, now: datetime, job: Job | None) -> tuple[State, str]:
    """Return the state of a submission, and a description of that state.

    If the store says how the submission ended, that is final. Otherwise the cluster's answer about
    the `job` decides. Without an answer (None), the time when the driver was last seen decides; for
    that, the clocks must agree to about half a minute.
    """
    if submission.ended_at is not None:
        return "ended", f"ended {_ago(submission.ended_at, now)}, {exit_text(submission.exit_code)}"
    if job is not None:
        return on_cluster(job)
    if submission.seen_at is None:
        return (
            "pending",
            f"submitted {_ago(submission.created_at, now)}, its driver has not started",
        )
    seen = _ago(submission.seen_at, now)
    if _seconds(submission.seen_at, now) > SILENT_AFTER_S:
        return (
            "silent",
            (
                f"no record since {_at(submission.seen_at)} ({seen}): its head or its driver"
                f" has ended, or cannot reach the storage; {_AGAIN}"
            ),
        )
    return "running", f"running when last seen, {seen}"


def on_cluster(job: Job) -> tuple[State, str]:
    """Return the state of a submission from the cluster's answer, if no store says how it ended."""
    if job.status is None:
        return "lost", f"the cluster does not know it; {_AGAIN}"
    if job.over:
        how = f", {exit_text(job.exit_code)}" if job.exit_code is not None else ""
        return (
            "lost",
            (
                f"ended without a record in the store; the cluster says {job.status}{how}, see"
                f" its log; {_AGAIN}"
            ),
        )
    if job.status == "PENDING":
        return "pending", "waiting on the cluster"
    return "running", "running on the cluster"


def exit_text(code: int | None) -> str:
    """Return an exit code with its meaning, as text."""
    if code is None:
        return "exit code unknown"
    return f"exit code {code} ({MEANINGS.get(code, 'see the log')})"


def current(
    submissions: Sequence[tuple[Submission, tuple[State, str]]],
) -> list[tuple[Submission, tuple[State, str]]]:
    """Keep the submissions that may still be running, and the last one of each sweep; `submissions`
    are in order, oldest first.
    """
    last = {submission.sweep: submission.id for submission, _ in submissions}
    return [
        (submission, state)
        for submission, state in submissions
        if state[0] in ("pending", "running") or submission.id == last[submission.sweep]
    ]


def as_record(submission: Submission, state: tuple[State, str]) -> dict[str, object]:
    """Return a submission as JSON shows it."""
    return {**asdict(submission), "state": state[0], "says": state[1]}


def lines(submissions: Sequence[tuple[Submission, tuple[State, str]]]) -> list[str]:
    """Describe submissions in text, one line each, oldest first: id and state."""
    advised = {submission.id for submission, _ in current(submissions)}
    return [
        f"{s.id}: {says if s.id in advised else says.replace(_AGAIN, 'a later submission went on')}"
        for s, (_, says) in submissions
    ]


def new(
    submission_id: str, sweep: str, address: str | None = None, settings: Sequence[str] = ()
) -> Submission:
    """Return the record of a new submission, made now with the phasegrid of this process."""
    made_by = provenance("cpu")
    commit, dirty = made_by["git_commit"], made_by["git_dirty"]
    return Submission(
        id=submission_id,
        sweep=sweep,
        created_at=now_text(),
        address=address,
        settings=tuple(settings),
        phasegrid_version=__version__,
        git_commit=None if commit is None else str(commit),
        git_dirty=None if dirty is None else bool(dirty),
    )


def started(submission: Submission) -> Submission:
    """Return the record of a submission whose driver starts now, for the first time or again."""
    now = now_text()
    return replace(submission, started_at=now, seen_at=now, ended_at=None, exit_code=None)


def _encode(submission: Submission) -> bytes:
    return (json.dumps(asdict(submission), indent=2) + "\n").encode()


def _decode(data: bytes, path: str) -> Submission:
    """Read a record; fields that a newer phasegrid added are left out."""
    known = {f.name for f in fields(Submission)}
    try:
        record = json.loads(data)
        settings = tuple(str(text) for text in record.get("settings") or ())
        own = {name: value for name, value in record.items() if name in known}
        submission = Submission(**{**own, "settings": settings})
        datetime.fromisoformat(submission.created_at)
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"reading a submission: {path} is damaged ({error!r}); delete it", damaged=True
        ) from error
    return submission


def _name(submission_id: str) -> str:
    return f"{FOLDER}/{checked_name(submission_id, 'submission')}.json"


def _hurry_name(submission_id: str) -> str:
    return f"{FOLDER}/{checked_name(submission_id, 'submission')}.now"


def _seconds(text: str, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(text)).total_seconds())


def _at(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ago(text: str, now: datetime) -> str:
    return f"{duration(_seconds(text, now))} ago"
