"""Repeat requests that a storage refuses only for a moment: a network file system stalls, a server
is busy.

Every request of a store goes through `PatientFiles`: requests are repeated nowhere else. Clients of
object stores also retry within each of our tries. An error that does not pass by itself (a full
disk, a missing right, a wrong name) is not retried. A write that is tried again starts from the
beginning, in a new temporary file: after a failed fsync the system may have forgotten what it could
not write. Every wait has a random factor, so that workers that were refused together do not retry
together.
"""

import errno
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from phasegrid.store.files.base import Entry, Files

T = TypeVar("T")

WAITS_S = (0.5, 2.0, 8.0)
"""Mean seconds before the second, third and last try: together they outlast the restart of a
server, which takes some seconds.
"""
_SPREAD = 0.5  # a wait is within this fraction of its length
_SYSTEM = (
    random.SystemRandom()
)  # never seeded: if a plug-in seeds Python's generator, all workers would wait equally long


def _known(*names: str) -> set[int]:
    """Return the numbers of the named errors that this system knows."""
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


_PASSING = _known(
    "EIO",
    "ESTALE",
    "ETIMEDOUT",
    "EBUSY",
    "EAGAIN",
    "EREMOTEIO",
    "ECONNRESET",
    "ECONNABORTED",
    "ECONNREFUSED",
    "EPIPE",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "ENETDOWN",
    "ENETUNREACH",
    "ENETRESET",
)
_FOR_GOOD = _known("ENOSPC", "EDQUOT", "EFBIG")


def may_pass(error: BaseException) -> bool:
    """Say whether an error of a file system may pass in a moment.

    >>> may_pass(OSError(errno.ESTALE, "Stale")), may_pass(OSError(errno.ENOSPC, "full"))
    (True, False)
    """
    if not isinstance(error, OSError):
        return type(error).__name__ in ("EndpointConnectionError", "ServerDisconnectedError")
    return error.errno in _PASSING or isinstance(error, (TimeoutError, ConnectionError))


def is_full(error: BaseException) -> bool:
    """Say whether a file system has no room: no space, no quota, a file too large."""
    return isinstance(error, OSError) and error.errno in _FOR_GOOD


def draw() -> float:
    """Return a number between 0 and 1 from the system's own generator."""
    return _SYSTEM.random()


@dataclass(frozen=True, slots=True)
class PatientFiles:
    """Files that repeat each request up to ``len(waits_s)`` times while its error may pass.

    A wait is its length times a factor between 0.5 and 1.5, from `draw`, uniform in [0, 1).
    """

    inner: Files
    waits_s: tuple[float, ...] = WAITS_S
    sleep: Callable[[float], object] = time.sleep
    draw: Callable[[], float] = draw

    @property
    def num_readers(self) -> int:
        """How many reads at a time are worth it."""
        return self.inner.num_readers

    def names(self, folder: str) -> list[str]:
        """List every file below `folder`."""
        return self._patiently(lambda: self.inner.names(folder))

    def entries(self, folder: str) -> list[Entry]:
        """List every file below `folder` with size and time."""
        return self._patiently(lambda: self.inner.entries(folder))

    def folders(self, folder: str) -> list[str]:
        """List what lies directly in `folder`."""
        return self._patiently(lambda: self.inner.folders(folder))

    def strays(self, folder: str) -> dict[str, str]:
        """Name what lies below `folder` and is in no other listing."""
        return self._patiently(lambda: self.inner.strays(folder))

    def exists(self, name: str) -> bool:
        """Say whether the file exists."""
        return self._patiently(lambda: self.inner.exists(name))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of a file, or some of them."""
        return self._patiently(lambda: self.inner.read(name, start, end))

    def size(self, name: str) -> int:
        """Return the size in bytes."""
        return self._patiently(lambda: self.inner.size(name))

    def modified(self, name: str) -> float | None:
        """Return the time of the last change."""
        return self._patiently(lambda: self.inner.modified(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists.

        An earlier try may have written the file and lost the answer: if the file holds our bytes,
        we wrote it.
        """
        tries = 0

        def attempt() -> bool:
            nonlocal tries
            tries += 1
            return self.inner.create(name, data) or (tries > 1 and self.inner.read(name) == data)

        return self._patiently(attempt)

    def replace(
        self, name: str, write: Callable[[BinaryIO], object], unless: str | None = None
    ) -> bool:
        """Write a file in place of the old one; every try calls `write` once."""
        return self._patiently(lambda: self.inner.replace(name, write, unless))

    def delete(self, name: str) -> None:
        """Delete a file."""
        self._patiently(lambda: self.inner.delete(name))

    def path(self, name: str) -> str:
        """Return where the file is."""
        return self.inner.path(name)

    def _patiently(self, request: Callable[[], T]) -> T:
        for place, length_s in enumerate(self.waits_s):
            try:
                return request()
            except Exception as error:
                if not may_pass(error):
                    raise
                wait_s = length_s * (1 + _SPREAD * (2 * self.draw() - 1))
                if place > 0:  # the first retry is not worth a warning
                    text = "the storage does not answer (%s): trying again in %.2g s"
                    logging.getLogger("phasegrid").warning(text, error, wait_s)
            self.sleep(wait_s)
        try:
            return request()
        except Exception as error:
            if may_pass(error):
                error.add_note(f"tried {len(self.waits_s) + 1} times")
            raise
