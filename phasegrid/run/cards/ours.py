"""Tell the processes of a run from those of others, on one machine."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from phasegrid.run import crashes
from phasegrid.run.worker import node_folder

_DEEPEST = 64  # generations that are looked at
_HOSTS_NUMBERS = "pid:[4026531836]"  # of the namespace that Linux begins with


def processes_of(run: str | None) -> set[int]:
    """Return this process and the workers of a run on this machine that live."""
    workers = set() if run is None else crashes.noted_processes(node_folder.folder_of(run))
    return {os.getpid(), *(pid for pid in workers if _parent(pid) is not None)}


def started_by(pid: int, ours: Collection[int]) -> bool | None:
    """Say whether a process is one of `ours` or descends from one; None if that cannot be told.

    A container may number its processes itself, and NVML may number them as the host does: then a
    process of ours has two numbers, and the one that NVML gives may be that of another process
    here. So there only a number of ours tells something.
    """
    if pid in ours:
        return True
    if not _numbers_as_the_host():
        return None
    above = _parent(pid)
    if above is None:
        return None
    for _ in range(_DEEPEST):
        if above is None or above <= 1:
            return False
        if above in ours:
            return True
        above = _parent(above)
    return False


def _numbers_as_the_host() -> bool:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid") == _HOSTS_NUMBERS
    return False


def _parent(pid: int) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[1])
    return None
