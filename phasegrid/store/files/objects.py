"""Read and write the files of an object store through fsspec. A write is one PUT of bytes built in
memory; it is conditional if the server supports that.

Writes are never streamed, because an interrupted stream would leave part of an object.
"""

import errno
import inspect
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from phasegrid.store.files.base import Entry


@dataclass(frozen=True, slots=True)
class ObjectFiles:
    """Files in an fsspec file system. A listing is never cached."""

    filesystem: Any
    root: str
    num_readers: int = 32

    def names(self, folder: str) -> list[str]:
        """List every file below `folder` (an object store answers 1000 names a request)."""
        prefix = self.path(folder).rstrip("/") + "/"
        try:
            return [self._relative(found, prefix) for found in self.filesystem.find(prefix)]
        except FileNotFoundError:
            return []

    def entries(self, folder: str) -> list[Entry]:
        """List every file below `folder` with size and time."""
        prefix = self.path(folder).rstrip("/") + "/"
        try:
            found = self.filesystem.find(prefix, detail=True)
        except FileNotFoundError:
            return []
        return [
            Entry(self._relative(name, prefix), int(info.get("size") or 0), _time_of(info))
            for name, info in found.items()
        ]

    def folders(self, folder: str) -> list[str]:
        """List what lies directly in `folder`."""
        prefix = self.path(folder).rstrip("/") + "/"
        try:
            entries = self.filesystem.ls(prefix, detail=True)
        except FileNotFoundError:
            return []
        found = {
            self._relative(e["name"].rstrip("/"), prefix) + "/" * (e["type"] == "directory")
            for e in entries
        }
        return sorted(found - {"", "/"})

    def strays(self, folder: str) -> dict[str, str]:  # noqa: ARG002  (the signature of `Files`)
        """Name nothing: an object store has no links, and a folder there takes no file's place."""
        return {}

    def exists(self, name: str) -> bool:
        """Say whether the object exists."""
        return bool(self.filesystem.isfile(self.path(name)))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of an object."""
        data: bytes = self.filesystem.cat_file(self.path(name), start=start, end=end)
        return data

    def size(self, name: str) -> int:
        """Return the size in bytes."""
        return int(self.filesystem.size(self.path(name)))

    def modified(self, name: str) -> float | None:
        """Return the time of the last change, as the server tells it."""
        return _time_of(self.filesystem.info(self.path(name)))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists, in one request where the file system can."""
        if self.exists(name):
            return False
        if "mode" not in inspect.signature(self.filesystem.pipe_file).parameters:
            self._put(name, data)
            return True
        try:
            self.filesystem.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, OSError) as error:
            if _is_taken(error):
                return False
            if not _is_unsupported(error):
                raise
            self._put(name, data)
        return True

    def replace(
        self, name: str, write: Callable[[BinaryIO], object], unless: str | None = None
    ) -> bool:
        """Write an object in place of the old one."""
        buffer = io.BytesIO()
        write(buffer)
        if unless is not None and self.exists(unless):
            return False
        self._put(name, buffer.getvalue())
        return True

    def delete(self, name: str) -> None:
        """Delete an object."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path(name))

    def path(self, name: str) -> str:
        """Return the path within the file system."""
        return f"{self.root}/{name}" if name else self.root

    def _put(self, name: str, data: bytes) -> None:
        self.filesystem.pipe_file(self.path(name), data)

    def _relative(self, found: str, prefix: str) -> str:
        return found.lstrip("/").removeprefix(prefix.lstrip("/"))


def _is_unsupported(error: Exception) -> bool:
    """Say whether a server does not support conditional writes (s3fs turns its answer 501 into
    ENOSYS).
    """
    return isinstance(error, NotImplementedError) or getattr(error, "errno", 0) == errno.ENOSYS


def _is_taken(error: Exception) -> bool:
    """Say whether a server refused a conditional write because the name is taken.

    s3fs raises FileExistsError only if the answer names the condition; only Amazon's servers do.
    """
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


def _time_of(info: Mapping[str, Any]) -> float | None:
    """Return when an object was last changed, from the facts of its file system; each file system
    names that fact differently.
    """
    for word in ("LastModified", "last_modified", "mtime", "updated", "modified", "created"):
        value = info.get(word)
        if isinstance(value, str) and value:
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None
