"""The errors a user can meet.

PhasegridError
├── SweepError     a sweep file, a setting or an argument is wrong         exit code 2
├── DataError      a data set is missing, malformed or does not fit        exit code 2
├── StoreError     a store cannot be read or written, or is damaged        exit code 4
├── ClusterError   Ray cannot be reached or started                        exit code 4
│   └── DeviceError    this process has lost its GPU                       exit code 4
└── MetricError    a metric cannot be computed on what it was given        a failed job

A message says what was being done, to which thing, what was found, what is allowed, and what to do.
A diverged training is a result, not an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake of a sweep: where it stands (line and column from 1; 0 where the source has none,
    as ``--set #1``), the dotted path of the field, and what was found, what is allowed, did you
    mean.
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class PhasegridError(Exception):
    """Base of every error that phasegrid raises for its user."""


class SweepError(PhasegridError, ValueError):
    """A sweep file or setting is wrong; the message lists every mistake, `mistakes` holds them
    where they have a place.
    """

    def __init__(self, message: str, mistakes: Sequence[Mistake] = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(mistakes)


class DataError(PhasegridError, ValueError):
    """A data set is missing, malformed, or does not fit what was asked of it."""


class StoreError(PhasegridError, OSError):
    """A store cannot be reached, read or written, or holds something damaged.

    `fault` tells them apart: ``full`` and ``fails`` are the storage's, and nothing else can be
    stored either; None is one thing in a storage that is well. A file that is not what was written
    is `damaged`.
    """

    def __init__(
        self,
        message: str,
        fault: Literal["full", "fails"] | None = None,
        damaged: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.damaged = damaged


class ClusterError(PhasegridError, RuntimeError):
    """Ray cannot be reached or started."""


class DeviceError(ClusterError):
    """The GPU refuses all further work of this process, as after a misaligned address; a fresh
    process can use it.
    """


class MetricError(PhasegridError, ValueError):
    """A metric cannot be computed on these models or these arguments."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that ends in `error`: 2 for a user's mistake, 4 for storage
    and cluster, 130 for Ctrl-C, 1 for anything that should not happen.
    """
    if isinstance(error, (StoreError, ClusterError)):
        return 4
    if isinstance(error, PhasegridError):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt) else 1
