"""Read data sets that are text files: options, bytes, identity. Standard library only. `name` is
that of the data set, for messages.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from phasegrid.errors import DataError
from phasegrid.keys import Json

Options = TypeVar("Options")

_LISTED = 12  # a message shows so many names of files


def options_of(kind: type[Options], args: Mapping[str, Json]) -> Options:
    """Return the dataclass `kind` filled from its fields in `args`, with defaults."""
    known = {spec.name for spec in fields(kind)}  # type: ignore[arg-type]
    values: Mapping[str, Any] = {name: value for name, value in args.items() if name in known}
    return kind(**values)


def read_text(name: str, path: Path) -> str:
    """Return the text of a file in UTF-8; a byte-order mark is dropped.

    Raises:
        DataError: if the file cannot be read or is not UTF-8.
    """
    data = read_bytes(name, path)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"loading data set {name}: line {line} of {path} is not UTF-8 ({error.reason}, byte"
            f" 0x{data[error.start]:02x}); convert the file to UTF-8"
        ) from error


def read_bytes(name: str, path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        DataError: if the file cannot be read; the message lists the files of its folder.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(_unreadable(name, path, error)) from error


def require_files(name: str, paths: Sequence[Path]) -> Sequence[Path]:
    """Return the files if all are there.

    Raises:
        DataError: as `read_bytes`, of the first that is not.
    """
    for path in paths:
        try:
            path.stat()
        except OSError as error:
            raise DataError(_unreadable(name, path, error)) from error
    return paths


def digest_of(name: str, paths: Sequence[Path]) -> str:
    """Return the SHA-256, in hexadecimal digits, of the SHA-256 digests of files in this order.

    Raises:
        DataError: if a file cannot be read.
    """
    digests = [hashlib.sha256(read_bytes(name, path)).digest() for path in paths]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def require_digest(name: str, files: str, found: str, wanted: str | None) -> None:
    """Check that files have the digest that the sweep gives; `files` names them in the message.

    Raises:
        DataError: if they have another digest.
    """
    if wanted and wanted != found:
        raise DataError(
            f"loading data set {name}: {files} have the SHA-256 {found}, but dataset.sha256 is"
            f" {wanted}: a file has changed. Put the old one back, or leave sha256 out and plan"
            " again"
        )


def listing(names: Sequence[str]) -> str:
    """List the first names of files, and say how many more there are.

    >>> listing(["a.txt", "b.txt"])
    'a.txt, b.txt'
    """
    listed = ", ".join(names[:_LISTED]) or "no file"
    return f"{listed} and {len(names) - _LISTED} more" if len(names) > _LISTED else listed


def _unreadable(name: str, path: Path, error: OSError) -> str:
    return (
        f"loading data set {name}: cannot read {path.absolute()} ({error.strerror or error})."
        f"{_contents(path.parent)} Set dataset.root to the folder, or dataset.train and"
        " dataset.test to the names of the files"
    )


def _contents(folder: Path) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError:
        return ""
    return f" The folder holds {listing(names)}."
