"""Keep what slow files of a data set were turned into as plain arrays beside them, so that they are
read slowly once. No torch here.

    FOLDER/.phasegrid-prepared/
      NAME-KEY.json                 the sources and the arrays, each with its SHA-256; written last
      NAME-KEY.ARRAY-DIGEST.npy     an array, in NumPy's own format

KEY is that of the name, the arguments that decide what is parsed, and `VERSION`. An entry is used
only if every source is the file that was parsed (the same size and times of change, else the same
SHA-256) and every array has its SHA-256; nothing is unpickled. A damaged, half-written or stale
entry is replaced. Files have names of their contents and are made visible in one step, so several
processes, also of several nodes, can write at once; on one node, one writes and the others wait.
Where nothing can be written there is no entry, and a message says so.

SHA-256 rather than BLAKE2: on processors with instructions for it (1.5 GB/s measured) it is twice
as fast, and ``sha256sum`` checks it.
"""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from phasegrid.fallbacks import fall_back
from phasegrid.keys import Json, content_key

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]

FOLDER = ".phasegrid-prepared"
VERSION = 1
"""Raised whenever the same files give other arrays."""
WORTH = 2**20
"""Bytes of files from which on an entry is kept: fewer are parsed as fast as an entry is found."""
ROOM = 2
"""An entry is written if the file system has room for this many copies of it."""
SETTLED_S = 2.0
"""A file that changed more recently may change again without another time of change."""
ABANDONED_S = 86_400
"""An unfinished file of this age has no writer any more."""
_NOT_WHOLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading an entry raises that is missing, damaged or stale."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A place for the arrays of one data set: `folder` is that of its sources, which `args` choose
    and explain.
    """

    folder: Path
    name: str
    args: Mapping[str, Json]

    @property
    def store(self) -> Path:
        """The folder that holds the entry."""
        return self.folder / FOLDER

    @property
    def record(self) -> Path:
        """The file that makes the entry visible."""
        key = content_key("prepared", VERSION, {"name": self.name, "args": dict(self.args)})
        return self.store / f"{self.name}-{key}.json"


def prepared(
    entry: Entry, find: Callable[[], Sequence[Path]], parse: Callable[[Sequence[Path]], Arrays]
) -> Arrays:
    """Return the arrays of an entry, mapped and read-only; parse the sources and keep the arrays if
    the entry is missing, damaged or stale.

    `find` returns the sources, checked; they lie in the folder of the entry.
    """
    found = read(entry)
    if found is not None:
        return found
    with _alone(entry.folder):
        found = read(entry)  # another process has written it meanwhile
        if found is not None:
            return found
        sources = find()
        if sum(source.stat().st_size for source in sources) < WORTH:
            return parse(sources)
        seen = [_seen(entry.folder, source) for source in sources]
        arrays = parse(sources)
        if all(_unchanged(entry.folder, source) for source in seen):
            _write(entry, seen, arrays)
    return arrays


def read(entry: Entry) -> dict[str, Array] | None:
    """Return the arrays of an entry, mapped and read-only; None if it is missing, damaged or stale.

    It is renewed where only the times of change of its sources differ.
    """
    try:
        record, arrays, trusted = _verified(entry.record)
    except _NOT_WHOLE:
        return None  # written anew, if it can be
    if not trusted:
        _renew(entry, record)
    return arrays


def known_digests(entry: Entry) -> dict[Path, str] | None:
    """Return the SHA-256 of each source of an entry whose sources have the sizes and the times of
    change that they had when they were parsed; None if there is none.
    """
    try:
        sources = _open_record(entry.record)["sources"]
        if not all(_trusted(entry.folder, source) for source in sources):
            return None
        return {entry.folder / source["file"]: source["sha256"] for source in sources}
    except _NOT_WHOLE:
        return None


def scratch(entry: Entry, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an array of bytes to be filled and kept. It lies in a file without a name, so that it
    may be larger than the memory; where nothing can be written it lies in memory.
    """
    try:
        entry.store.mkdir(exist_ok=True)
        with _partial(entry.store) as path:
            return np.memmap(path, dtype=np.uint8, mode="w+", shape=shape)
    except OSError:
        return np.empty(shape, dtype=np.uint8)


def is_whole(record: Path) -> bool:
    """Say whether the entry of a record is neither damaged nor stale."""
    try:
        _verified(record)
    except _NOT_WHOLE:
        return False
    return True


def _verified(path: Path) -> tuple[dict[str, Any], dict[str, Array], bool]:
    """Return the content of a record, its arrays, and whether its sources were trusted by their
    times alone.

    Raises:
        one of `_NOT_WHOLE`: if the entry is missing, damaged or stale.
    """
    record, store = _open_record(path), path.parent
    sources = record["sources"]
    trusted = [_trusted(store.parent, source) for source in sources]
    for source, is_trusted in zip(sources, trusted, strict=True):
        if not is_trusted and not _same_bytes(store.parent, source):
            raise ValueError(f"{source['file']} has changed")
    arrays = {
        name: _map(store / array["file"], array["sha256"])
        for name, array in record["arrays"].items()
    }
    return record, arrays, all(trusted)


@dataclass(frozen=True, slots=True)
class Kept:
    """What an entry says: its sources with the bytes of each, and those of its arrays. `record` is
    its file.
    """

    record: Path
    sources: Mapping[Path, int]
    array_bytes: int


def kept_entries(folder: Path, name: str = "*") -> list[Kept]:
    """List the entries of a data set, or of all, in a folder; damaged ones may be passed over."""
    found = []
    for path in sorted((folder / FOLDER).glob(f"{name}-*.json")):
        try:
            record = _open_record(path)
            arrays = [path.parent / array["file"] for array in record["arrays"].values()]
            size = sum(array.stat().st_size for array in arrays)
        except _NOT_WHOLE:
            continue
        files = {folder / source["file"]: int(source["size"]) for source in record["sources"]}
        found.append(Kept(path, files, size))
    return found


def _open_record(path: Path) -> dict[str, Any]:
    """Return the content of a record.

    Raises:
        OSError, ValueError, KeyError, TypeError: if it is missing or damaged.
    """
    outer = json.loads(path.read_bytes())
    if hashlib.sha256(outer["record"].encode()).hexdigest() != outer["sha256"]:
        raise ValueError(f"{path} is damaged")
    content: dict[str, Any] = json.loads(outer["record"])
    return content


def _map(path: Path, digest: str) -> Array:
    """Map an array whose file has this SHA-256.

    Raises:
        OSError, ValueError: if it is missing or has another.
    """
    if hashlib.sha256(np.memmap(path, mode="r").data).hexdigest() != digest:
        raise ValueError(f"{path} is damaged")
    return np.lib.format.open_memmap(path, mode="r")


def _seen(folder: Path, source: Path) -> dict[str, Json]:
    """Describe a source: where it is, how large, when it changed last, and its SHA-256."""
    times = _times(source)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": os.path.relpath(source, folder), "sha256": digest, **times}


def _times(source: Path) -> dict[str, Json]:
    found = source.stat()
    settled = time.time() - max(found.st_mtime, found.st_ctime) > SETTLED_S
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns if settled else None,
        "ctime_ns": found.st_ctime_ns if settled else None,
    }


def _trusted(folder: Path, source: Mapping[str, Any]) -> bool:
    """Say whether a source has the size and the times of change that it had when it was parsed."""
    found = (folder / source["file"]).stat()
    now = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    seen: tuple[int, int | None, int | None] = (
        source["size"],
        source["mtime_ns"],
        source["ctime_ns"],
    )
    return now == seen


def _same_bytes(folder: Path, source: Mapping[str, Any]) -> bool:
    path = folder / source["file"]
    same_size: bool = path.stat().st_size == source["size"]
    return same_size and _seen(folder, path)["sha256"] == source["sha256"]


def _unchanged(folder: Path, source: Mapping[str, Any]) -> bool:
    return _trusted(folder, source) or _same_bytes(folder, source)


def _write(entry: Entry, sources: Sequence[Mapping[str, Json]], arrays: Arrays) -> None:
    """Write the arrays of an entry, then its record; report why if that fails."""
    try:
        entry.store.mkdir(exist_ok=True)
        _require_room(entry, ROOM * sum(array.nbytes for array in arrays.values()))
        written = {name: _write_array(entry, name, array) for name, array in arrays.items()}
        _write_record(entry, {"sources": [*sources], "arrays": written})
        _sweep(entry, {array["file"] for array in written.values()})
    except OSError as error:
        fall_back(
            f"data set {entry.name} is parsed by every run: what was parsed cannot be kept in"
            f" {entry.store}",
            error,
        )


def _require_room(entry: Entry, needed: int) -> None:
    free = shutil.disk_usage(entry.store).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, {needed} needed", str(entry.store))


def _write_array(entry: Entry, name: str, array: Array) -> dict[str, str]:
    with _partial(entry.store) as partial:
        with partial.open("xb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = entry.store / f"{entry.record.stem}.{name}-{digest[:16]}.npy"
        os.replace(partial, path)
    return {"file": path.name, "sha256": digest}


def _write_record(entry: Entry, content: Mapping[str, Any]) -> None:
    text = json.dumps(content)
    outer = {"record": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with _partial(entry.store) as partial:
        partial.write_text(json.dumps(outer) + "\n", encoding="utf-8")
        os.replace(partial, entry.record)


def _renew(entry: Entry, record: Mapping[str, Any]) -> None:
    """Note the new times of change of sources whose bytes are the same."""
    sources = [{**source, **_times(entry.folder / source["file"])} for source in record["sources"]]
    if sources == record["sources"]:
        return
    try:
        _write_record(entry, {**record, "sources": sources})
    except OSError:
        return  # read-only: the bytes of the sources are compared each time


def _sweep(entry: Entry, named: set[str]) -> None:
    """Delete arrays of this entry that its record does not name, and files that writers which died
    left unfinished.
    """
    for path in entry.store.glob(f"{entry.record.stem}.*.npy"):
        if path.name not in named:
            path.unlink(missing_ok=True)
    for path in entry.store.glob("*.part"):
        if time.time() - path.stat().st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)


@contextmanager
def _partial(store: Path) -> Iterator[Path]:
    """Name a file to be written and moved to its place; delete it if it is still there at the
    end.
    """
    path = store / f"{uuid.uuid4().hex}.part"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process of this node prepares anything in a folder. Only work is saved:
    where there is no folder yet, or it cannot be locked (some network file systems), several
    processes may do the same.
    """
    with ExitStack() as held:
        if fcntl is not None:
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY)
                held.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
