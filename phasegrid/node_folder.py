"""A folder of a node that the processes of one run share, without torch: who made it, who is in it, when it may go.

The folder is a run's own, so that what it holds cannot be of other files than the run's. It belongs to this user alone (mode 0700,
checked) and lies in the system's temporary folder (``TMPDIR``). The process that drives a run deletes its folder; what other
nodes are left with is deleted by the next run there, once no process has it locked. Where any of this cannot be
had (Windows, a folder that is somebody else's) there is none.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TRIES = 3
_held: dict[str, int] = {}
"""Runs whose folder this process is in, with the descriptor that locks it."""


def enter(run: str) -> Path | None:
    """Make the folder of a run if need be, and lock it for as long as this process lives; None if it is not to be trusted."""
    if fcntl is None:
        return None
    folder = folder_of(run)
    if run not in _held or not folder.is_dir():
        descriptor = _hold(folder)
        if descriptor is None:
            return None
        _held[run] = descriptor
        _sweep(folder)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process to hold a lock; it ends with its process, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def forget(run: str) -> None:
    """Delete the folder of a run on this node; processes that mapped its files keep what they have."""
    if fcntl is None:
        return
    held = _held.pop(run, None)
    if held is not None:
        os.close(held)
    shutil.rmtree(folder_of(run), ignore_errors=True)


def folder_of(run: str) -> Path:
    """Return where the folder of a run is on this node, or would be."""
    return Path(tempfile.gettempdir()) / f"{_prefix()}{run}"


def _prefix() -> str:
    return f"phasegrid-{os.getuid()}-"


def _hold(folder: Path) -> int | None:
    """Make a folder and return the descriptor that locks it; None if that cannot be done, or it is not ours alone."""
    try:
        for _ in range(_TRIES):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            strange = not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()
            if strange or found.st_mode & 0o077:
                return None
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if folder.is_dir() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
            os.close(descriptor)  # swept away between making and locking it
    except OSError:
        pass  # no such place, no right to it, a file system without locks: there is no folder
    return None


def _sweep(mine: Path) -> None:
    """Delete the folders of runs that no process of this node is busy with any more."""
    for other in mine.parent.glob(f"{_prefix()}*"):
        if other == mine:
            continue
        try:
            descriptor = os.open(other, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(descriptor)
