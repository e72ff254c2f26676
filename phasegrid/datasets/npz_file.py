"""Read a NumPy ``.npz`` file as a data set, without torch: facts from its headers, a fingerprint,
and its arrays.

The file holds ``train_images`` or ``train_inputs``, ``train_labels``, ``test_images`` or
``test_inputs``, and ``test_labels``. Labels are integers from 0; the number of classes is the
largest label plus one. Inputs are uint8 (pixel units 0..255) or floating point of any range.
Layouts; images are turned into (N, C, H, W):

- 4-D arrays are (N, C, H, W), unless the last size is 1 or 3 and the second is neither: then they
  are (N, H, W, C).
- 3-D arrays called ``*_images`` are grey, (N, H, W). Arrays of other dimensions are taken as they
  are.

Arrays that would need pickle are refused: nothing in the file is executed.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from phasegrid.datasets import facts_of_options
from phasegrid.datasets.prepared import Arrays
from phasegrid.declare import DatasetFacts
from phasegrid.errors import DataError
from phasegrid.keys import Json

MAX_CLASSES = 65_536  # a larger label is a mistake, not a class

LARGEST = 1e145
"""The largest magnitude of an input: sums of larger squares may overflow. Larger numbers usually
mark missing values.
"""


@dataclass(frozen=True, slots=True)
class Header:
    """Name, shape and type of one array in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def facts(args: Mapping[str, Json]) -> DatasetFacts:
    """Return the facts of the file at ``args["path"]``, after ``fraction`` and ``aside``: reads
    headers and labels, not the inputs.

    Raises:
        DataError: if the file is missing, is no npz file, or lacks what a data set must hold.
    """
    path = _path(args)
    headers = _read_headers(path)
    train_inputs, train_labels, test_inputs, test_labels = _check_headers(path, headers)
    classes = _count_classes(path, [_read(path, train_labels), _read(path, test_labels)])
    shape = _layout(train_inputs)[1:]
    return facts_of_options(train_inputs.shape[0], test_inputs.shape[0], shape, classes, args)


def fingerprint(args: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return ``{"sha256": ...}`` of the bytes of the file at ``args["path"]``: its identity.

    Raises:
        DataError: if the file is missing, or its digest differs from a given ``sha256``.
    """
    path = _path(args)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(_missing(path, error)) from error
    wanted = args.get("sha256", "")
    if wanted and wanted != found:
        raise DataError(
            f"loading data set npz: {path} has the SHA-256 {found}, but dataset.sha256 is {wanted}:"
            " the file has changed. Put the old file back, or leave sha256 out and plan again"
        )
    return {"sha256": found}


def read_arrays(args: Mapping[str, Json]) -> Arrays:
    """Read and check every array of the file at ``args["path"]``: ``train_inputs`` (N, *S),
    ``train_labels`` (N,) int64, ``test_inputs``, ``test_labels``.

    Raises:
        DataError: as `facts`, and if inputs hold NaN, infinities, or numbers beyond `LARGEST`.
    """
    path = _path(args)
    headers = _check_headers(path, _read_headers(path))
    loaded = [_read(path, header) for header in headers]
    _count_classes(path, [loaded[1], loaded[3]])
    for header, values in zip(headers, loaded, strict=True):
        _check_finite(path, header, values)
    train, test = (_to_channels_first(headers[i], loaded[i]) for i in (0, 2))
    return {
        "train_inputs": train,
        "train_labels": loaded[1].astype(np.int64),
        "test_inputs": test,
        "test_labels": loaded[3].astype(np.int64),
    }


def is_compressed(args: Mapping[str, Json]) -> bool:
    """Say whether an array of the file at ``args["path"]`` is compressed, so that reading it is
    slow.

    Raises:
        DataError: if the file is missing or is no npz file.
    """
    path = _path(args)
    with _opened(path) as archive:
        return any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())


def _path(args: Mapping[str, Json]) -> Path:
    path = args.get("path")
    if not isinstance(path, str) or not path:
        raise DataError("loading data set npz: dataset.path is empty; set it to an .npz file")
    return Path(path)


def _missing(path: Path, error: OSError) -> str:
    return (
        f"loading data set npz: cannot read {path.absolute()} ({error.strerror or error}); "
        "set dataset.path to an .npz file"
    )


def _read_headers(path: Path) -> dict[str, Header]:
    with _opened(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name[:-4]: _read_header(path, archive, name) for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise DataError(_missing(path, error)) from error
    except zipfile.BadZipFile as error:
        raise DataError(
            f"loading data set npz: {path} is no .npz file, or a damaged one ({error}); write it"
            " with numpy.savez"
        ) from error


def _read_header(path: Path, archive: zipfile.ZipFile, name: str) -> Header:
    with archive.open(name) as file:
        try:
            shape, dtype = _parse_header(file)
        except ValueError as error:
            raise DataError(
                f"loading data set npz: array {name[:-4]} of {path} has no valid header ({error}); "
                "write the file again with numpy.savez"
            ) from error
    return Header(name[:-4], shape, dtype)


def _parse_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    return shape, dtype


def _check_headers(
    path: Path, headers: Mapping[str, Header]
) -> tuple[Header, Header, Header, Header]:
    """Return train inputs, train labels, test inputs, test labels, or report every mistake of the
    file at once.
    """
    mistakes: list[str] = []
    found: list[Header] = []
    for split in ("train", "test"):
        names = ((f"{split}_images", f"{split}_inputs"), (f"{split}_labels",))
        for choices in names:
            header = next((headers[name] for name in choices if name in headers), None)
            if header is None:
                mistakes.append(f"{' or '.join(choices)} is missing")
            else:
                found.append(header)
                mistakes += _array_mistakes(header)
    if not mistakes:
        mistakes = _fit_mistakes(*found)
    if mistakes:
        raise DataError(
            f"loading data set npz: {path} does not fit: {'; '.join(mistakes)}. It holds "
            f"{', '.join(f'{h.name} {h.dtype} {h.shape}' for h in headers.values()) or 'no array'}"
        )
    train_inputs, train_labels, test_inputs, test_labels = found
    return train_inputs, train_labels, test_inputs, test_labels


def _array_mistakes(header: Header) -> list[str]:
    if header.dtype.hasobject:
        return [f"{header.name} holds Python objects, which would need pickle"]
    if 0 in header.shape:
        return [f"{header.name} is empty"]
    if header.name.endswith("labels"):
        return _label_mistakes(header)
    mistakes = []
    if header.dtype != np.uint8 and header.dtype.kind != "f":
        mistakes.append(
            f"{header.name} has the type {header.dtype}; allowed: uint8, floating point"
        )
    dimensions = len(header.shape)
    fewest = 3 if header.name.endswith("images") else 2
    if dimensions < fewest or dimensions > 4:
        mistake = f"{header.name} has {dimensions} dimensions; allowed: {fewest} to 4"
        vectors = f" (vectors are called {header.name.removesuffix('images')}inputs)"
        mistakes.append(mistake + (vectors if dimensions == 2 else ""))
    return mistakes


def _label_mistakes(header: Header) -> list[str]:
    mistakes = []
    if header.dtype.kind not in "iu":
        mistakes.append(f"{header.name} has the type {header.dtype}; labels must be integers")
    if len(header.shape) != 1:
        mistakes.append(f"{header.name} has the shape {header.shape}; labels must have one, (N,)")
    return mistakes


def _fit_mistakes(
    train_inputs: Header, train_labels: Header, test_inputs: Header, test_labels: Header
) -> list[str]:
    mistakes = [
        f"{inputs.name} holds {inputs.shape[0]} examples, but {labels.name} {labels.shape[0]}"
        for inputs, labels in ((train_inputs, train_labels), (test_inputs, test_labels))
        if inputs.shape[:1] != labels.shape[:1]
    ]
    if _layout(train_inputs)[1:] != _layout(test_inputs)[1:]:
        mistakes.append(
            f"one example of {train_inputs.name} has the shape {_layout(train_inputs)[1:]}, but one"
            f" of {test_inputs.name} {_layout(test_inputs)[1:]}"
        )
    if (train_inputs.dtype == np.uint8) != (test_inputs.dtype == np.uint8):
        mistakes.append(
            f"{train_inputs.name} is {train_inputs.dtype}, but {test_inputs.name}"
            f" {test_inputs.dtype}"
        )
    return mistakes


def _channels_are_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)


def _layout(header: Header) -> tuple[int, ...]:
    """Return the shape of an array with channels first."""
    shape = header.shape
    if len(shape) == 3 and header.name.endswith("images"):
        return (shape[0], 1, *shape[1:])
    return (shape[0], shape[3], shape[1], shape[2]) if _channels_are_last(shape) else shape


def _to_channels_first(header: Header, values: NDArray[Any]) -> NDArray[Any]:
    if _channels_are_last(header.shape):
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return values.reshape(_layout(header))


def _read(path: Path, header: Header) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            values: NDArray[Any] = archive[header.name]
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"loading data set npz: cannot read {header.name} of {path} ({error}): the file is"
            " damaged"
        ) from error
    return values


def _count_classes(path: Path, labels: list[NDArray[Any]]) -> int:
    smallest = min(int(values.min()) for values in labels)
    largest = max(int(values.max()) for values in labels)
    if smallest < 0 or largest >= MAX_CLASSES or largest == 0:
        raise DataError(
            f"loading data set npz: the labels of {path} run from {smallest} to {largest}; allowed:"
            f" 0 to {MAX_CLASSES - 1}, and at least two classes. Number the classes from 0"
        )
    return largest + 1


def _check_finite(path: Path, header: Header, values: NDArray[Any]) -> None:
    if values.dtype.kind != "f":
        return
    rows = values.reshape(len(values), -1)
    bad, what = ~np.isfinite(rows).all(axis=1), "NaN or infinities"
    if values.itemsize > 4 and not bad.any():  # narrower types cannot hold such numbers
        bad = np.maximum(rows.max(axis=1), -rows.min(axis=1)) > LARGEST
        what = f"numbers beyond {LARGEST:g} (marks of missing values?)"
    if bad.any():
        raise DataError(
            f"loading data set npz: {header.name} of {path} holds {what} in {int(bad.sum())} of "
            f"{len(values)} examples, first in example {int(bad.argmax())}. Remove or repair them"
        )
