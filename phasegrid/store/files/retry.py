"""Try again what a storage refuses for a moment: a network file system that stalls, a server that
is busy.

Every request of a store goes through `PatientFiles`: this is the one place where storage is tried
again. Object stores have retries of their own within each of ours. What will not pass by itself (a
full disk, a missing right, a wrong name) is not tried again. A write that is tried again starts
from the beginning, in a new temporary file: after a failed fsync the system may have forgotten what
it could not write. Every wait is drawn around its length: workers that were refused together do not
come back together.
"""

import errno
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from phasegrid.store.files.local import Entry, Files

T = TypeVar("T")

WAITS_S = (0.5, 2.0, 8.0)
"""Seconds before the second, third and last try, on average: they outlast a server's restart of
some seconds.
"""
_SPREAD = 0.5  # a wait is within this fraction of its length
_SYSTEM = (
    random.SystemRandom()
)  # no seed: a plug-in that seeds Python's generator would have all workers wait alike


def _known(*names: str) -> set[int]:
    """Return the numbers of those errors that this system has."""
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


_PASSING = _known(
    "EIO", "ESTALE", "ETIMEDOUT", "EBUSY", "EAGAIN", "EREMOTEIO", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EPIPE",
    "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET",
)  # fmt: skip
_FOR_GOOD = _known("ENOSPC", "EDQUOT", "EFBIG")


def may_pass(error: BaseException) -> bool:
    """Say whether what a file system raised may be gone in a moment.

    >>> may_pass(OSError(errno.ESTALE, "Stale file handle")), may_pass(OSError(errno.ENOSPC, "full"))
    (True, False)
    """
    if not isinstance(error, OSError):
        return type(error).__name__ in ("EndpointConnectionError", "ServerDisconnectedError")
    return error.errno in _PASSING or isinstance(error, (TimeoutError, ConnectionError))


def is_full(error: BaseException) -> bool:
    """Say whether a file system can take no more: no space, no quota, a file too large."""
    return isinstance(error, OSError) and error.errno in _FOR_GOOD


def draw() -> float:
    """Return a number between 0 and 1 from the system's own generator."""
    return _SYSTEM.random()


@dataclass(frozen=True, slots=True)
class PatientFiles:
    """Files whose every request is made again, up to ``len(waits_s)`` times, while its error is one
    that may pass.

    A wait is its length times a factor that `draw`, uniform in [0, 1), puts between 0.5 and 1.5.
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

        An earlier try may have written the file and lost the answer: then the name is taken by our
        own bytes, and we wrote it.
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
        """Write a file in place of the old one; `write` is called once a try."""
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
                if place > 0:  # the first time is no news
                    text = "the storage does not answer (%s): trying again in %.2g s"
                    logging.getLogger("phasegrid").warning(text, error, wait_s)
            self.sleep(wait_s)
        try:
            return request()
        except Exception as error:
            if may_pass(error):
                error.add_note(f"tried {len(self.waits_s) + 1} times")
            raise
