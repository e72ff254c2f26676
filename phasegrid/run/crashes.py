"""Find out how a process crashed: its signal, its Python stack, and the jobs that it was doing.

A crash in a library (a write past a buffer, a broken GPU) ends the process at once. Python's
`faulthandler` can still write the signal and the Python stack. A worker lets it write to a file on
its node whose first line names the current attempt, so the driver can match the crash to a job. A
serial run lets it write to a pipe; a small process at the other end outlives the run and reports.
"""

import faulthandler
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from phasegrid.fallbacks import fall_back
from phasegrid.run import witness

_PREFIX = "crash-"
_HARDWARE = "\x03"  # begins the word of a process whose card is lost
_LONGEST = 8000  # characters of a stack that are kept
_NAMED = 3  # jobs that a message names
_pads: dict[Path, int] = {}


@dataclass(frozen=True, slots=True)
class Crash:
    """How a process ended, in a few words, and its stack or other remains. The kind ``infra`` means
    that its job cannot be to blame.
    """

    why: str
    text: str
    kind: Literal["crash", "infra"] = "crash"


def note_attempt(folder: Path | None, attempt: str) -> None:
    """Write a crash of this process into `folder` under the name of this `attempt`, until the next
    call; costs a few microseconds.

    Does nothing without a folder.
    """
    if folder is None:
        return
    pad = _pads.get(folder)
    if pad is None:
        try:
            path = folder / f"{_PREFIX}{os.getpid()}"
            pad = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        except OSError as error:  # for example a full disk
            fall_back("a process that crashes cannot leave its stack", error)
            return
        _pads[folder] = pad
        faulthandler.enable(pad, all_threads=False)
    os.ftruncate(pad, 0)
    os.write(pad, f"{attempt}\n".encode())


def noted_processes(folder: Path) -> set[int]:
    """Return the processes that have noted an attempt in a folder, dead ones too."""
    names = (path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*"))
    return {int(name) for name in names if name.isdecimal()}


def leave_word(folder: Path | None, text: str, is_of_hardware: bool = False) -> None:
    """Write a text as the cause of this process's end, as a crash report; say whether the hardware
    is to blame.
    """
    if folder in _pads:
        os.write(_pads[folder], f"{_HARDWARE if is_of_hardware else ''}{text}".encode())


def find_crash(folder: Path, attempt: str) -> Crash | None:
    """Return how the process of an attempt on this node crashed; None if it did not, or left no
    report.
    """
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            name, _, text = path.read_text(errors="replace").partition("\n")
            if name == attempt and text:
                stack, _, _modules = text.partition("\nExtension modules:")
                stack, kind = stack.removeprefix(_HARDWARE), _kind_of(text)
                return Crash(witness.cause(stack), stack[:_LONGEST], kind)
    return None


def _kind_of(text: str) -> Literal["crash", "infra"]:
    return "infra" if text.startswith(_HARDWARE) else "crash"


def few(names: Sequence[str]) -> str:
    """List the names of jobs, only the first ones if there are many."""
    rest = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return "; ".join([*names[:_NAMED], *rest])


@contextmanager
def witnessed() -> Iterator[Callable[[Sequence[str]], None]]:
    """Let another process watch this one. If this one dies, the other reports on stderr the cause
    and the jobs that it was doing.

    Yields a function to call with the names of the jobs that begin. If no process can be started,
    nothing is watched.
    """
    command = [sys.executable, "-I", "-S", witness.__file__]
    try:
        watching = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        fall_back("if this process crashes, no other process can report the cause", error)
        yield lambda _names: None
        return
    assert watching.stdin is not None
    pipe, own = watching.stdin, not faulthandler.is_enabled()  # else the user chose a place
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
    with suppress(BrokenPipeError):  # it was killed: nobody listens
        os.write(pipe.fileno(), f"{line}\n".encode())
