"""Create, lock and delete the folder on a node that the processes of one run share. No torch here.

Each run has its own folder, so its contents cannot come from another run's files. It belongs to
this user alone (mode 0700, checked) and lies in the system's temporary folder (``TMPDIR``). The
driver of a run deletes its folder; folders on other nodes are deleted by the next run there, once
no process has them locked. A killed driver leaves a file whose lock nobody holds. The next run
there ends the processes that the killed driver had started, and deletes its folder. If any of this
is impossible (Windows, a folder of another user), there is no folder.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phasegrid.fallbacks import fall_back
from phasegrid.run import leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TRIES = 3
_DRIVER = "driver"
_held: dict[str, int] = {}
"""Runs whose folder this process uses, with the descriptor that locks it."""
_driven: dict[str, int] = {}
"""Runs that this process drives, with the descriptor of the driver's lock."""


def enter(run: str) -> Path | None:
    """Make the folder of a run if necessary, and lock it while this process lives; None if the
    folder cannot be trusted.
    """
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


def drive(run: str) -> None:
    """Enter the folder of a run as its driver; a lock shows later runs whether this process still
    lives.
    """
    folder = enter(run)
    if folder is None or run in _driven:
        return
    new = folder / f"{_DRIVER}.new"
    try:
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.replace(new, folder / _DRIVER)  # it appears locked
    except OSError as error:
        fall_back(f"if this run dies, its files in {folder} are not removed", error)
        return
    _driven[run] = descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Take an exclusive lock; it ends with this process, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def forget(run: str) -> None:
    """Delete the folder of a run on this node; processes that mapped its files keep their
    mappings.
    """
    if fcntl is None:
        return
    for descriptors in (_held, _driven):
        held = descriptors.pop(run, None)
        if held is not None:
            os.close(held)
    shutil.rmtree(folder_of(run), ignore_errors=True)


def folder_of(run: str) -> Path:
    """Return the path of a run's folder on this node, whether or not it exists."""
    return Path(tempfile.gettempdir()) / f"{_prefix()}{run}"


def _prefix() -> str:
    return f"phasegrid-{os.getuid()}-"


def _hold(folder: Path) -> int | None:
    """Make a folder and return the descriptor that locks it; None if that fails, or another user
    can write to it.
    """
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
            os.close(descriptor)  # another run deleted it between making and locking it
    except OSError as error:  # no such place, no permission, or a file system without locks
        fall_back(f"processes of this node share nothing: there is no folder {folder}", error)
    return None


def _sweep(mine: Path) -> None:
    """Delete the folders of runs that no process of this node uses, and end the processes of dead
    drivers.
    """
    for other in mine.parent.glob(f"{_prefix()}*"):
        if other == mine or not _is_mine(other):
            continue
        if (other / _DRIVER).exists():
            with _if_free(other / _DRIVER) as died:
                if died:
                    leftovers.end(other.name.removeprefix(_prefix()))
                    shutil.rmtree(other, ignore_errors=True)
            continue
        with _if_free(other) as left:
            if left:
                shutil.rmtree(other, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


@contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    """Lock a file or folder briefly; yield False if that is impossible, for example while a process
    has it locked.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
