"""Say what the files of a store are, on a disk or in an object store: bytes by relative names.

A file appears whole or not at all. `create` never changes a file that exists (the first writer
wins); `replace` does.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

T = TypeVar("T")

TEMPORARY = "_tmp"
_UNFINISHED = re.compile(r"[^/]+\.[0-9a-f]{32}")
_FILES_A_TURN = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a listing: its name, its size in bytes, and when it was last changed (seconds since
    1970), where known.
    """

    name: str
    num_bytes: int
    modified: float | None


class Files(Protocol):
    """Immutable bytes by name. Names are relative, with forward slashes. Reading a missing name
    raises FileNotFoundError.
    """

    @property
    def num_readers(self) -> int:
        """How many reads at a time are faster than one after another."""

    def names(self, folder: str) -> list[str]:
        """List the names, relative to `folder`, of all files below it; empty without a folder."""

    def entries(self, folder: str) -> list[Entry]:
        """List every file below `folder` as `names` does, with sizes and times, from one
        listing.
        """

    def folders(self, folder: str) -> list[str]:
        """List what lies directly in `folder`: subfolders end in a slash."""

    def strays(self, folder: str) -> dict[str, str]:
        """Name everything below `folder` that the other listings leave out (links, folders with a
        file's name), and say what each is.
        """
        ...

    def exists(self, name: str) -> bool:
        """Say whether the file exists.

        Raises:
            StoreError: if the name belongs to a link or to something else that is not a file.
        """
        ...

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of a file, or its bytes from `start` to `end`."""

    def size(self, name: str) -> int:
        """Return the size in bytes."""

    def modified(self, name: str) -> float | None:
        """Return when the file was last changed, in seconds since 1970; None if unknown."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; say whether this call wrote it."""

    def replace(
        self, name: str, write: Callable[[BinaryIO], object], unless: str | None = None
    ) -> bool:
        """Write or replace a file in one visible step; return whether it was written.

        It is not written if the file `unless` exists just before that step.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if it is not there."""

    def path(self, name: str) -> str:
        """Return where the file is, for people and for readers of this file system."""


def is_temporary(name: str) -> bool:
    """Say whether a file of `TEMPORARY` comes from an unfinished write; others do not belong to the
    store.
    """
    return _UNFINISHED.fullmatch(name) is not None


def each(files: Files, names: Sequence[str], work: Callable[[str], T]) -> Iterator[T]:
    """Do the same with many files, several at a time where that is faster; answers come in the
    order of `names`.

    Each thread takes several files: giving one local file to a thread costs as much as reading it.
    """
    size = min(_FILES_A_TURN, len(names) // files.num_readers + 1)
    turns = [names[start : start + size] for start in range(0, len(names), size)]
    with ThreadPoolExecutor(files.num_readers) as pool:
        for answers in pool.map(lambda turn: [work(name) for name in turn], turns):
            yield from answers
