"""Fallbacks: work that was done another way because the first way failed. None is silent.

Code that falls back calls `fall_back`; the code responsible for the work collects the reports with
`collected` and stores them. Reports that nobody collects are logged as warnings.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fallback:
    """`what` was done instead, and the `error` (type and message) that was the cause."""

    what: str
    error: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.what} ({self.error})"


_collecting: ContextVar[dict[str, Fallback] | None] = ContextVar("fallbacks", default=None)


def fall_back(what: str, error: BaseException) -> None:
    """Report that something is done another way because `error` was raised."""
    kind, message = type(error).__name__, str(error).strip()
    brief = f"{kind}: {message.splitlines()[0][:300]}" if message else kind
    said = Fallback(what, brief, "".join(traceback.format_exception(error)))
    found = _collecting.get()
    if found is None:
        logging.getLogger("phasegrid").warning("%s", said)
    else:
        found.setdefault(what, said)


@contextmanager
def collected() -> Iterator[dict[str, Fallback]]:
    """Collect all reports made within this context, by `what`; of equal ones, keep the first."""
    found: dict[str, Fallback] = {}
    before = _collecting.set(found)
    try:
        yield found
    finally:
        _collecting.reset(before)
