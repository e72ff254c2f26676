"""Write and read weights as safetensors bytes, and the snapshots that a long training resumes from.
Nothing is ever unpickled.

A safetensors file is 8 bytes (little-endian length of the header), a JSON header (name -> dtype,
shape, offsets), and the raw numbers. Headers are read here without torch; torch is imported only
where tensors are made. Every file holds a checksum (`sealing`), which is checked before the rest of
the file.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phasegrid.errors import StoreError
from phasegrid.keys import Json
from phasegrid.store import sealing
from phasegrid.store.files.base import Files
from phasegrid.store.files.errors import reported
from phasegrid.store.tables import checked_key

if TYPE_CHECKING:
    from torch import Tensor

NAME = re.compile(
    r"([0-9a-f]{2})/(\1[0-9a-f]{30})([.@]epoch-[0-9]+|@update-[0-9]+)?\.safetensors"
)  # of weights
SNAPSHOT = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{30})\.epoch-[0-9]+\.safetensors")
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader
_META = "phasegrid"
REPAIR = "`phasegrid gc --damaged --delete` and `phasegrid run` train it again"
DEEP_REPAIR = REPAIR.replace(
    "--damaged", "--damaged --deep"
)  # used where only its numbers have changed


def encode(tensors: Mapping[str, "Tensor"], meta: Json = None) -> bytes:
    """Write named tensors (any device) and one JSON value as safetensors bytes.

    Tensors are copied first: trained weights are views of one flat vector, and safetensors refuses
    such views.
    """
    from safetensors.torch import save

    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    told = {} if meta is None else {_META: json.dumps(meta)}
    data = save(copies, {sealing.KEY: sealing.BLANK, **told})
    if told:
        data = _with_facts_in_order(data)
    return sealing.seal(data, _end_of_header(data))


def decode(data: bytes, where: str) -> dict[str, "Tensor"]:
    """Read safetensors bytes into CPU tensors.

    Raises:
        StoreError: if the bytes are not a whole safetensors file, or have changed since they were
        written.
    """
    from safetensors.torch import load

    refuse_damage(data, where)
    try:
        return load(data)
    except Exception as error:  # the format's own error, and Python's for text, sizes and memory
        raise StoreError(
            f"reading {where}: not a whole safetensors file ({type(error).__name__}: {error})",
            damaged=True,
        ) from error


def refuse_damage(data: bytes, where: str) -> None:
    """Check the checksum of a file, if the file has one.

    Raises:
        StoreError: if it does not fit.
    """
    end = _end_of_header(data)
    if sealing.is_sealed(data, end) and not sealing.is_intact(data, end):
        raise StoreError(
            f"reading {where}: not a whole safetensors file, or changed since (its checksum does"
            " not fit)",
            damaged=True,
        )


def read_header(files: Files, name: str) -> dict[str, Any]:
    """Read the header of a stored safetensors file and check that the file is as long as it says.

    Raises:
        StoreError: if the header is not one, or bytes are missing or left over.
        FileNotFoundError: if there is no such file.
    """
    where = files.path(name)
    size = files.size(name)
    length = int.from_bytes(files.read(name, 0, _LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
        raise StoreError(
            f"reading {where}: cut short, or not a safetensors file ({size} bytes)", damaged=True
        )
    text = files.read(name, _LENGTH_BYTES, _LENGTH_BYTES + length)
    try:
        header: dict[str, Any] = json.loads(text)
        tensors = {key: value for key, value in header.items() if key != "__metadata__"}
        end = max((int(value["data_offsets"][1]) for value in tensors.values()), default=0)
    except Exception as error:  # JSON of any content can cause any error
        found = f"{type(error).__name__}: {error}"
        raise StoreError(
            f"reading {where}: damaged safetensors header ({found})", damaged=True
        ) from error
    if size != _LENGTH_BYTES + length + end:
        raise StoreError(
            f"reading {where}: found {size} bytes; its header says {_LENGTH_BYTES + length + end}",
            damaged=True,
        )
    return header


def facts_in(header: Mapping[str, Any], where: str) -> Json:
    """Return the JSON value that a header holds in addition to the tensors."""
    try:
        value: Json = json.loads(header.get("__metadata__", {}).get(_META, "null"))
    except ValueError as error:
        raise StoreError(f"reading {where}: damaged facts ({error})", damaged=True) from error
    return value


def non_finite(data: bytes, where: str) -> list[str]:
    """Return the names of the floating-point tensors of a safetensors file that hold a NaN or an
    infinity.

    Raises:
        StoreError: if its header does not fit its numbers.
    """
    import numpy as np

    # All exponent bits set means NaN or infinity, whatever the sign and the mantissa.
    exponents = {"F64": (8, 0x7FF0 << 48), "F32": (4, 0x7F80 << 16), "F16": (2, 0x7C00)}
    exponents["BF16"] = (2, 0x7F80)
    bad = []
    try:
        body = memoryview(data)[_end_of_header(data) :]
        for name, entry in _header(data).items():
            if name == "__metadata__" or entry["dtype"] not in exponents:
                continue
            width, mask = exponents[entry["dtype"]]
            start, end = entry["data_offsets"]
            # The body is not aligned for numpy's wide types; frombuffer accepts that.
            bits = np.frombuffer(body[start:end], dtype=np.dtype(f"<u{width}"))
            if bool(((bits & bits.dtype.type(mask)) == mask).any()):
                bad.append(name)
    except Exception as error:  # JSON of any content can cause any error
        found = f"{type(error).__name__}: {error}"
        raise StoreError(
            f"reading {where}: damaged safetensors header ({found})", damaged=True
        ) from error
    return bad


@dataclass(frozen=True, slots=True)
class StoredSnapshots:
    """The snapshots of running trainings: ``snapshots/ab/<trial>.epoch-<n>.safetensors``. Each
    appears in one step.

    `note(trial, what)` is called for a damaged one.
    """

    files: Files
    note: Callable[[str, str], object]

    def epochs(self, trial: str) -> set[int]:
        """Return the epochs after which a trial has a snapshot."""
        start, end = f"{trial}.epoch-", ".safetensors"
        folder = _snapshot_folder(trial)
        with reported(f"listing snapshots of {trial}"):
            names = self.files.names(folder)
        mine = [name for name in names if name.startswith(start) and name.endswith(end)]
        numbers = [name.removeprefix(start).removesuffix(end) for name in mine]
        return {int(number) for number in numbers if number.isdecimal()}

    def load(self, trial: str, epoch: int) -> "tuple[dict[str, Tensor], Json] | None":
        """Return the snapshot of a trial after an epoch; None if it is missing or damaged.

        A damaged snapshot is deleted and noted. Its epochs are trained again; no result is lost.
        """
        name = _snapshot_name(trial, epoch)
        with reported(f"reading snapshot {self.files.path(name)}"):
            try:
                data = self.files.read(name)
            except FileNotFoundError:
                return None
        try:
            return decode(data, self.files.path(name)), facts_in(
                _header(data), self.files.path(name)
            )
        except StoreError as error:
            self.note(trial, f"{error}; it was deleted, and the training begins anew")
            self.delete(trial, [epoch])
            return None

    def save(self, trial: str, epoch: int, tensors: Mapping[str, "Tensor"], meta: Json) -> None:
        """Write a snapshot; replace an existing one of the same epoch."""
        data = encode(tensors, meta)
        with reported(f"writing a snapshot of {trial}"):
            self.files.replace(_snapshot_name(trial, epoch), lambda file: file.write(data))

    def delete(self, trial: str, epochs: Collection[int]) -> None:
        """Delete snapshots of a trial; ignore those that do not exist."""
        with reported(f"deleting snapshots of {trial}"):
            for epoch in epochs:
                self.files.delete(_snapshot_name(trial, epoch))


def _with_facts_in_order(data: bytes) -> bytes:
    """Return the same file with its tensors in a fixed order, so that equal contents have equal
    checksums: the format's own writer does not fix the order.
    """
    header = _header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # numbers begin at a multiple of 8
    length = len(text).to_bytes(_LENGTH_BYTES, "little")
    return b"".join((length, text, memoryview(data)[_end_of_header(data) :]))


def _header(data: bytes) -> dict[str, Any]:
    """Return the header of a whole safetensors file."""
    header: dict[str, Any] = json.loads(data[_LENGTH_BYTES : _end_of_header(data)])
    return header


def _end_of_header(data: bytes) -> int:
    return _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")


def _snapshot_folder(trial: str) -> str:
    return f"snapshots/{checked_key(trial)[:2]}"


def _snapshot_name(trial: str, epoch: int) -> str:
    return f"{_snapshot_folder(trial)}/{trial}.epoch-{epoch}.safetensors"
