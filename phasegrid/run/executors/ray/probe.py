"""Make every node of a cluster try the storage before the first job, and judge the results. No Ray
here.

The driver writes a question into the store; a node opens the store, reads the question, writes an
answer of a few MiB and tells its clock; the driver reads the answer. A node passes if both saw what
the other wrote, in the store of the same id.

Clocks: the driver notes when it asks and when it has the answer. A node's clock is off by at least
as much as its time, or the time of the file that it wrote, lies outside of this interval. So a slow
node is never blamed. No result depends on a clock (a key is a hash, the first writer wins). So a
clock that is off by more than `WARN_SKEW_S` gives only a warning: times in rows and signs of life
in ``status`` mislead, and object stores refuse requests that are 15 minutes off. Beyond
`MAX_SKEW_S` it is an error: ``gc`` deletes unfinished work that is older than a day, and the clock
makes new files look half a day old.
"""

import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from phasegrid.errors import StoreError
from phasegrid.store.files.base import TEMPORARY, Files
from phasegrid.store.files.errors import reported
from phasegrid.store.files.probing import PROBE_BYTES
from phasegrid.store.store import Store

WARN_SKEW_S = 60.0  # machines with NTP differ by milliseconds; a minute means that there is none
MAX_SKEW_S = 43_200.0  # half of the least age at which anything is deleted
_TEXT_BYTES = 32
_WAITS_S = (
    0.5,
    2.0,
    4.0,
)  # a network file system may show a new file late: its attribute cache must expire


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a node: it must find `text` in file `name` of the store at `url`, and answer
    there.
    """

    url: str
    store_id: str
    name: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Sight:
    """The result of one node: a problem, or the name of its answer; and the time of its clock."""

    problem: str | None = None
    answer: str = ""
    now: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What the driver knows about the answer of a node.

    The driver asked at `asked_at` and had the answer at `answered_at`, by its own clock. `seen`
    says whether it found the answer in the storage. `modified` is the time of the answer's file;
    None if the storage does not tell it.
    """

    node: str
    sight: Sight
    asked_at: float
    answered_at: float
    seen: bool = True
    modified: float | None = None


def ask(url: str, store_id: str) -> Question:
    """Write a question into the store.

    Raises:
        StoreError: if the driver itself cannot write there.
    """
    text = os.urandom(_TEXT_BYTES)
    question = Question(url, store_id, f"{TEMPORARY}/question.{uuid.uuid4().hex}", text)
    with reported(f"writing to store {url}"):
        Store.open(url).files.create(question.name, text)
    return question


def look(question: Question, sleep: Callable[[float], object] = time.sleep) -> Sight:
    """Read a question on a node and answer it there."""
    answer = f"{TEMPORARY}/answer.{uuid.uuid4().hex}"
    try:
        store = Store.open(question.url)
        if store.id != question.store_id:
            return Sight(
                f"sees another store there ({store.id}, not {question.store_id}): the storage is"
                " not shared"
            )
        with reported(f"reading from store {question.url}"):
            if _read_soon(store.files, question.name, sleep) != question.text:
                return Sight("does not see what the driver wrote there: the storage is not shared")
        with reported(f"writing to store {question.url}"):
            store.files.create(answer, question.text + os.urandom(PROBE_BYTES))
    except StoreError as error:
        return Sight(str(error))
    return Sight(None, answer, time.time())


def read_answer(
    question: Question,
    node: str,
    sight: Sight,
    asked_at: float,
    answered_at: float,
    sleep: Callable[[float], object] = time.sleep,
) -> Report:
    """As the driver, look in the storage for the answer that a node says it wrote, and delete it.

    Raises:
        StoreError: if the driver itself can no longer read there.
    """
    if sight.problem is not None:
        return Report(node, sight, asked_at, answered_at)
    with reported(f"reading from store {question.url}"):
        files = Store.open(question.url).files
        seen = _read_soon(files, sight.answer, sleep, _TEXT_BYTES) == question.text
        modified = None
        with suppress(FileNotFoundError):
            modified = files.modified(sight.answer)
        files.delete(sight.answer)
    return Report(node, sight, asked_at, answered_at, seen, modified)


def blame_node(error: StoreError, url: str) -> str:
    """Say that a pack was lost because the storage fails on its node, if it works for the driver.

    Raises:
        StoreError: if it does not work for the driver either: no other node would do better.
    """
    if error.fault == "full":
        raise error
    Store.open(url).probe()
    return f"StoreError: {error}"


def forget(question: Question) -> None:
    """Delete a question; if that fails, its file is left to ``gc``."""
    with suppress(StoreError), reported(f"writing to store {question.url}"):
        Store.open(question.url).files.delete(question.name)


def judge(url: str, reports: Sequence[Report]) -> list[str]:
    """Return warnings, at most one per node.

    Raises:
        StoreError: if nodes cannot be used; the message names each, and why.
    """
    problems = [f"node {r.node}: {what}" for r in reports if (what := _problem(r)) is not None]
    if problems:
        raise StoreError(
            f"checking that every node shares the storage {url}: "
            + "; ".join(problems)
            + "; nothing was started"
        )
    return [
        f"node {r.node}: {_off(skew)}: times in the store will be wrong; synchronise it (NTP)"
        for r in reports
        if abs(skew := skew_s(r)) > WARN_SKEW_S
    ]


def skew_s(report: Report) -> float:
    """Return by how many seconds at least a node's clock is ahead (or, negative, behind): the
    larger value of that from the time it tells and that from the time of its file.
    """
    times = [t for t in (report.sight.now, report.modified) if t is not None]
    return max(
        (_outside(t, report.asked_at, report.answered_at) for t in times), key=abs, default=0.0
    )


def _problem(report: Report) -> str | None:
    if report.sight.problem is not None:
        return report.sight.problem
    if not report.seen:
        return "the driver does not see what it wrote: the storage is not shared"
    skew = skew_s(report)
    if abs(skew) > MAX_SKEW_S:
        return f"{_off(skew)}: `phasegrid gc` depends on the age of files; synchronise it (NTP)"
    return None


def _off(skew: float) -> str:
    return f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the driver's"


def _outside(time_s: float, start: float, end: float) -> float:
    return min(0.0, time_s - start) + max(0.0, time_s - end)


def _read_soon(
    files: Files, name: str, sleep: Callable[[float], object], num_bytes: int | None = None
) -> bytes | None:
    """Read a file that another process has just written; None if it does not appear."""
    for wait_s in (*_WAITS_S, None):
        try:
            return files.read(name, 0, num_bytes)
        except FileNotFoundError:
            if wait_s is not None:
                sleep(wait_s)
    return None
