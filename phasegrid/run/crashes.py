"""What a process that dies without an exception leaves behind: of which signal, where its code was,
what it was doing.

A crash in a library (a write past a buffer, a broken GPU) ends the process at once. Python's
`faulthandler` still writes down the signal and the Python stack: a worker has it write into a file
of its node, whose first line is the attempt that it is at, so that the driver knows which death was
whose; a serial run has it write into a pipe to a small process that outlives it and tells.
"""

import faulthandler
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from phasegrid.fallbacks import fall_back
from phasegrid.run import witness

_PREFIX = "crash-"
_LONGEST = 8000  # characters of a stack that are kept
_NAMED = 3  # jobs that a message names
_pads: dict[Path, int] = {}


@dataclass(frozen=True, slots=True)
class Crash:
    """How a process ended, in a few words, and its stack or other remains."""

    why: str
    text: str


def note_attempt(folder: Path | None, attempt: str) -> None:
    """Have a crash of this process written into `folder` under the name of an `attempt`, until the
    next; costs a few microseconds.

    Nothing is noted where there is no folder.
    """
    if folder is None:
        return
    pad = _pads.get(folder)
    if pad is None:
        try:
            path = folder / f"{_PREFIX}{os.getpid()}"
            pad = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        except OSError as error:  # a full disk, say
            fall_back("a process that crashes cannot leave its stack", error)
            return
        _pads[folder] = pad
        faulthandler.enable(pad, all_threads=False)
    os.ftruncate(pad, 0)
    os.write(pad, f"{attempt}\n".encode())


def leave_word(folder: Path | None, text: str) -> None:
    """Leave a text as the cause of this process's end, in the form of a crash report."""
    if folder in _pads:
        os.write(_pads[folder], text.encode())


def find_crash(folder: Path, attempt: str) -> Crash | None:
    """Return how the process of an attempt on this node crashed; None if it was not that, or left
    nothing.
    """
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            name, _, text = path.read_text(errors="replace").partition("\n")
            if name == attempt and text:
                stack, _, _modules = text.partition("\nExtension modules:")
                return Crash(witness.cause(text), stack[:_LONGEST])
    return None


def few(names: Sequence[str]) -> str:
    """List the names of jobs, only the first ones if there are many."""
    rest = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return "; ".join([*names[:_NAMED], *rest])


@contextmanager
def witnessed() -> Iterator[Callable[[Sequence[str]], None]]:
    """Let another process watch this one: should it die, that tells on stderr of what, and which
    jobs it was doing.

    Gives a function that is to be told the names of the jobs that are begun. It goes without where
    no process can be started.
    """
    command = [sys.executable, "-I", "-S", witness.__file__]
    try:
        watching = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        fall_back("if this process crashes, no other process can report the cause", error)
        yield lambda _names: None
        return
    assert watching.stdin is not None
    pipe, own = watching.stdin, not faulthandler.is_enabled()  # else somebody has chosen a place
    if own:
        faulthandler.enable(pipe.fileno(), all_threads=False)
    try:
        yield lambda names: _say(pipe, witness.DOING, few(names))
    finally:
        if own:
            faulthandler.disable()
        _say(pipe, witness.ENDED, "")
        with suppress(BrokenPipeError):
            pipe.close()
        watching.wait()


def _say(pipe: IO[bytes], mark: str, text: str) -> None:
    line = f"{mark}{text}".replace("\n", " ")
    with suppress(BrokenPipeError):  # somebody has killed it: there is nobody to tell
        os.write(pipe.fileno(), f"{line}\n".encode())
