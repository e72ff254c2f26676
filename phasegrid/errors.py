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
    """One mistake in a sweep: its place (line and column from 1, or 0 if the source has none, such
    as ``--set #1``), the dotted path of the field, and a message with what was found and what is
    allowed.
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
    """A sweep file or setting is wrong. The message lists every mistake; `mistakes` holds those
    with a place.
    """

    def __init__(self, message: str, mistakes: Sequence[Mistake] = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(mistakes)


class DataError(PhasegridError, ValueError):
    """A data set is missing, malformed, or unsuitable."""


class StoreError(PhasegridError, OSError):
    """A store cannot be reached, read or written, or contains something damaged.

    `fault` is ``full`` or ``fails`` if the storage itself cannot store anything more, and None if
    only one thing in it is affected. `damaged` means that a file does not hold what was written.
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
    """The GPU refuses further work from this process, as after a misaligned address. A new process
    can use it, unless `card_is_lost`: then no process can.
    """

    def __init__(self, message: str, card_is_lost: bool = False) -> None:
        super().__init__(message)
        self.card_is_lost = card_is_lost


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
