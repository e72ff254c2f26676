"""Find and end processes that a run started and that outlive it: Ray's own.

Every process that a run starts inherits a mark in its environment, and keeps it if its parent
changes. The run itself does not have the mark, because Linux shows the environment at the start of
a process. Without ``/proc`` no process is found.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "PHASEGRID_RUN"
_LOOK_EVERY_S = 0.05


def marked(run: str) -> set[int]:
    """Return the processes of this user that `run` has started, without zombies."""
    mark = f"{MARK}={run}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found - {os.getpid()}


def end(run: str, grace_s: float = 0.0) -> None:
    """Kill the processes that `run` has started and that have not ended within `grace_s`."""
    ends = time.monotonic() + grace_s
    while found := marked(run):
        if time.monotonic() >= ends:
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() >= ends + 1.0:  # the kernel does not let it end
                return
        time.sleep(_LOOK_EVERY_S)


def dead_children(names: frozenset[str]) -> dict[int, str]:
    """Return the zombies of this process that run programs of these names, by process id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            start, _, rest = (entry / "stat").read_text().rpartition(")")
            state, parent = rest.split()[:2]
            name = start.partition("(")[2]
            if state == "Z" and int(parent) == os.getpid() and name in names:
                found[int(entry.name)] = name
    return found
