"""Read and write the files of a store in a local (or network-mounted) folder.

A write is a temporary file in ``_tmp`` of the same file system, fsync, then a hard link to the
final name, which fails if the name is taken (file systems without links: a check and a rename).

Below the root, no symbolic link is followed (to read, to list or to delete), because its target
does not belong to the store. The root itself may be a link. If a link or a folder has the name of a
file, an error names it; listings leave it out, and `strays` lists it.
"""

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from phasegrid.errors import StoreError
from phasegrid.store.files.base import TEMPORARY, Entry

_ENDINGS = (".parquet", ".safetensors")  # of files; no folder of a store has this name
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_NO_DIRECTORY_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR}


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files in a local (or network-mounted) folder.

    `_read_from` holds the folders that are known not to be links: reads check each folder once, all
    other operations check it every time.
    """

    root: str
    num_readers: int = 2
    _read_from: set[str] = field(default_factory=set, compare=False, repr=False)

    def names(self, folder: str) -> list[str]:
        """List every file below `folder`."""
        return [name for name, entry in self._below(folder) if _is_file(entry)]

    def entries(self, folder: str) -> list[Entry]:
        """List every file below `folder` with size and time; skip files that vanish meanwhile."""
        found = []
        for name, entry in self._below(folder):
            with suppress(FileNotFoundError):
                if _is_file(entry):
                    status = entry.stat(follow_symlinks=False)
                    found.append(Entry(name, status.st_size, status.st_mtime))
        return found

    def folders(self, folder: str) -> list[str]:
        """List what lies directly in `folder`; a link to a folder does not count as a folder."""
        self._status(folder, a_folder=True)
        try:
            with os.scandir(self.path(folder)) as entries:
                return sorted(e.name + "/" * e.is_dir(follow_symlinks=False) for e in entries)
        except FileNotFoundError:
            return []

    def strays(self, folder: str) -> dict[str, str]:
        """Name what lies below `folder` and is neither a file nor an ordinary folder."""
        found = {}
        for name, entry in self._below(folder):
            with suppress(FileNotFoundError):
                if not _is_file(entry):
                    found[name] = _kind(entry.stat(follow_symlinks=False))
        return found

    def exists(self, name: str) -> bool:
        """Say whether the file exists."""
        return self._status(name) is not None

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of a file; anything else with that name counts as missing."""
        path = self.path(name)
        folder = name.rpartition("/")[0]
        if folder not in self._read_from:
            self._status(folder, a_folder=True)
            self._read_from.add(folder)
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a file", path)
        with open(path, "rb") as file:
            file.seek(start or 0)
            return file.read() if end is None else file.read(end - (start or 0))

    def size(self, name: str) -> int:
        """Return the size in bytes."""
        return self._there(name).st_size

    def modified(self, name: str) -> float | None:
        """Return the time of the last change."""
        return self._there(name).st_mtime

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists."""
        if self.exists(name):
            return False
        with self._temporary(name, lambda file: file.write(data)) as temporary:
            return self._link(temporary, name)

    def replace(
        self, name: str, write: Callable[[BinaryIO], object], unless: str | None = None
    ) -> bool:
        """Write a file in place of the old one."""
        self._status(name)
        with self._temporary(name, write) as temporary:
            if unless is not None and self.exists(unless):
                return False
            os.replace(temporary, self.path(name))
        return True

    def delete(self, name: str) -> None:
        """Delete a file."""
        if self.exists(name):
            Path(self.path(name)).unlink(missing_ok=True)

    def path(self, name: str) -> str:
        """Return the absolute path."""
        return os.path.join(self.root, name) if name else self.root

    def _below(self, folder: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
        """Yield everything below a folder except ordinary folders; follow no links."""
        self._status(folder, a_folder=True)
        return _walk(self.path(folder), "")

    def _there(self, name: str) -> os.stat_result:
        found = self._status(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(name))
        return found

    def _status(self, name: str, a_folder: bool = False) -> os.stat_result | None:
        """Return the system's facts about a file or a folder, None if it does not exist; no part of
        its path may be a link.

        Raises:
            StoreError: naming what is in the place of a file or a folder of the store.
        """
        path, found = self.root, None
        parts = name.split("/") if name else []
        for place, part in enumerate(parts, 1):
            path = os.path.join(path, part)
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                return None
            is_folder = place < len(parts) or a_folder
            if stat.S_ISLNK(found.st_mode) or (not is_folder and not stat.S_ISREG(found.st_mode)):
                raise StoreError(_in_the_way(path, _kind(found), is_folder))
        return found

    def _link(self, temporary: str, name: str) -> bool:
        """Give a finished temporary file its name unless the name is taken by a file."""
        final = self.path(name)
        try:
            os.link(temporary, final)
        except FileExistsError:
            # A network file system may repeat a request whose answer was lost: if the file has two
            # names, our link was made.
            if os.stat(temporary).st_nlink > 1:
                return True
            self._status(name)  # raises if the name belongs to something that is not a file
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._status(name) is not None:
                return False
            os.replace(temporary, final)
        return True

    @contextmanager
    def _temporary(self, name: str, write: Callable[[BinaryIO], object]) -> Iterator[str]:
        """Write a flushed temporary file and yield its path; afterwards make the final name
        durable.
        """
        temporary = self.path(f"{TEMPORARY}/{os.path.basename(name)}.{uuid.uuid4().hex}")
        self._status(TEMPORARY, a_folder=True)
        folder = os.path.dirname(self.path(name))
        _make_folder(os.path.dirname(temporary))
        _make_folder(folder)
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            _fsync_folder(folder)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _walk(folder: str, prefix: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not entry.name.endswith(_ENDINGS):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, entry
    except FileNotFoundError:
        return


def _is_file(entry: "os.DirEntry[str]") -> bool:
    return entry.is_file(follow_symlinks=False)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "a link"
    return "a folder" if stat.S_ISDIR(status.st_mode) else "neither a file nor a folder"


def _in_the_way(path: str, kind: str, is_folder: bool) -> str:
    if is_folder:
        return (
            f"{path} is {kind} where a folder of the store should be, and links in a store are not"
            " followed: put the folder itself there, or link or mount the whole store elsewhere"
        )
    return (
        f"{path} is {kind} where a file of the store should be; it is ignored: move it away,"
        f" then run again"
    )


def _make_folder(folder: str) -> None:
    """Make a folder and those above it, each durable in its parent."""
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    if parent != folder:
        _make_folder(parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
        _fsync_folder(parent)
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder should be", folder)


def _fsync_folder(folder: str) -> None:
    """Make names in a folder survive a crash, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(descriptor)
