"""Files of a store as bytes under relative names: a local folder, or any fsspec file system
(``s3://``, ``memory://``).

A file appears whole or not at all. `create` never changes a file that exists (the first writer
wins); `replace` does. Local: a temporary file in ``_tmp`` of the same file system, fsync, then a
hard link to the final name, which fails if the name is taken (file systems without links: a check
and a rename). Object stores: `phasegrid.store.files.objects`.

Below the root no symbolic link is followed, to read, to list or to delete: what lies at its end is
not the store's. The root may be one. A link, or a folder, that has a file's name stands in its way
and is refused by name; listings leave it out, and `strays` lists it.
"""

import errno
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from phasegrid.errors import StoreError
from phasegrid.store.files.urls import local_path

T = TypeVar("T")

TEMPORARY = "_tmp"
_UNFINISHED = re.compile(r"[^/]+\.[0-9a-f]{32}")
_FILES_A_TURN = 16
_ENDINGS = (".parquet", ".safetensors")  # of files; no folder of a store is named so
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_NO_DIRECTORY_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a listing: its name, its size in bytes, and when it was last changed (seconds since
    1970), where known.
    """

    name: str
    num_bytes: int
    modified: float | None


class Files(Protocol):
    """Named immutable bytes. Names are relative, with forward slashes. Reading what is not there:
    FileNotFoundError.
    """

    @property
    def num_readers(self) -> int:
        """How many reads at a time are worth it."""

    def names(self, folder: str) -> list[str]:
        """List every file below `folder`, by its name relative to it; nothing if there is no such
        folder.
        """

    def entries(self, folder: str) -> list[Entry]:
        """List every file below `folder` as `names` does, with sizes and times, from one
        listing.
        """

    def folders(self, folder: str) -> list[str]:
        """List what lies directly in `folder`: subfolders end in a slash."""

    def strays(self, folder: str) -> dict[str, str]:
        """Name what lies below `folder` and is in no other listing (links, folders with a file's
        name), and say what each is.
        """
        ...

    def exists(self, name: str) -> bool:
        """Say whether the file exists.

        Raises:
            StoreError: if what has the name is no file, or a link.
        """
        ...

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of a file, or those from `start` to `end`."""

    def size(self, name: str) -> int:
        """Return the size in bytes."""

    def modified(self, name: str) -> float | None:
        """Return when the file was last changed, in seconds since 1970, where that is known."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; say whether this call wrote it."""

    def replace(
        self, name: str, write: Callable[[BinaryIO], object], unless: str | None = None
    ) -> bool:
        """Write a file, in place of the old one if there is one, in one visible step; say whether
        that was done.

        It is not if the file `unless` is there when all but that step is.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if it is not there."""

    def path(self, name: str) -> str:
        """Return where the file is, for people and for readers of this file system."""


def open_files(url: str) -> Files:
    """Return the files under a folder's path or a URL. Nothing is created or checked.

    Raises:
        SweepError: if the URL is not one of a place for stores (`storage_urls`).
        StoreError: if the package for its kind of storage is not installed.
    """
    folder = local_path(url)
    if folder is not None:
        return LocalFiles(folder)
    import fsspec

    from phasegrid.store.files.objects import ObjectFiles

    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        scheme = url.partition(":")[0]
        extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(scheme)
        install = f"pip install 'phasegrid[{extra}]'" if extra else f"pip install: {error}"
        raise StoreError(f"opening store {url}: {scheme}:// needs a package; {install}") from error
    except ValueError as error:
        raise StoreError(f"opening store {url}: {error}; use a folder, s3:// or gs://") from error
    return ObjectFiles(filesystem, root.rstrip("/"))


def is_temporary(name: str) -> bool:
    """Say whether a file of `TEMPORARY` is one of a write that was not finished; others are not the
    store's.
    """
    return _UNFINISHED.fullmatch(name) is not None


def each(files: Files, names: Sequence[str], work: Callable[[str], T]) -> Iterator[T]:
    """Do the same with many files, as many at a time as is worth it there; answers come in the
    order of `names`.

    A thread takes several files at once: for a local file, handing it over costs as much as reading
    it.
    """
    size = min(_FILES_A_TURN, len(names) // files.num_readers + 1)
    turns = [names[start : start + size] for start in range(0, len(names), size)]
    with ThreadPoolExecutor(files.num_readers) as pool:
        for answers in pool.map(lambda turn: [work(name) for name in turn], turns):
            yield from answers


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files in a local (or network-mounted) folder.

    `_read_from` are folders found to be no links: reading many files looks at each folder once, all
    else every time.
    """

    root: str
    num_readers: int = 2
    _read_from: set[str] = field(default_factory=set, compare=False, repr=False)

    def names(self, folder: str) -> list[str]:
        """List every file below `folder`."""
        return [name for name, entry in self._below(folder) if _is_file(entry)]

    def entries(self, folder: str) -> list[Entry]:
        """List every file below `folder` with size and time; one that is gone by then is left
        out.
        """
        found = []
        for name, entry in self._below(folder):
            with suppress(FileNotFoundError):
                if _is_file(entry):
                    status = entry.stat(follow_symlinks=False)
                    found.append(Entry(name, status.st_size, status.st_mtime))
        return found

    def folders(self, folder: str) -> list[str]:
        """List what lies directly in `folder`; a link to a folder is no folder."""
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
        """Return the bytes of a file; what has its name and is no file counts as nothing there."""
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
        """Yield everything below a folder but ordinary folders, without following links."""
        self._status(folder, a_folder=True)
        return _walk(self.path(folder), "")

    def _there(self, name: str) -> os.stat_result:
        found = self._status(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(name))
        return found

    def _status(self, name: str, a_folder: bool = False) -> os.stat_result | None:
        """Return what the system says of a file or a folder, None if it is not there; nothing on
        the way may be a link.

        Raises:
            StoreError: saying what stands where a file or a folder of the store should be.
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
            # A network file system may repeat a request whose answer was lost: two names mean that
            # ours is there.
            if os.stat(temporary).st_nlink > 1:
                return True
            self._status(name)  # refuses what is no file
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
        """Write a flushed temporary file and give its path; afterwards make the final name
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
        f"{path} is {kind} where a file of the store should be; it counts as nothing stored and is"
        " never followed: move it away, then run again"
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
