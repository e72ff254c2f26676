"""A checksum inside a file, over the whole file: what a disk, a copy or a bad memory has changed is
found before it is parsed.

Parquet's key-value metadata and safetensors' ``__metadata__`` hold one text each, a mark and 64
hexadecimal digits: the SHA-256 of all bytes of the file as they are while the digits are zeros.
Other readers pass it over. Files of earlier releases have none, and are read without this check.
"""

import hashlib

KEY = "phasegrid.checksum"
BLANK = "phasegrid-sha256:" + "0" * 64
"""What a writer puts under `KEY`, for `seal` to fill in."""
_MARK = BLANK[:-64].encode()
_ZEROS = b"0" * 64


def seal(data: bytes, end: int | None = None) -> bytes:
    """Fill the checksum into a finished file that holds `BLANK` once, under `KEY`; `end` is where
    the text around it ends.
    """
    place = data.rfind(_MARK + _ZEROS, 0, end)
    assert place >= 0, "the file was written without the place for its checksum"
    place += len(_MARK)
    return b"".join((data[:place], _digest(data, place), data[place + 64 :]))


def is_sealed(data: bytes, end: int | None = None) -> bool:
    """Say whether a file has, or had before it was damaged, a checksum."""
    return data.rfind(_MARK, 0, end) >= 0 or data.rfind(KEY.encode(), 0, end) >= 0


def is_intact(data: bytes, end: int | None = None) -> bool:
    """Say whether a file that `is_sealed` is what its writer wrote."""
    place = data.rfind(_MARK, 0, end) + len(_MARK)
    return place >= len(_MARK) and data[place : place + 64] == _digest(data, place)


def _digest(data: bytes, place: int) -> bytes:
    """Return the digits of a file whose digits begin at `place`."""
    whole = memoryview(data)
    found = hashlib.sha256(whole[:place])
    found.update(_ZEROS)
    found.update(whole[place + 64 :])
    return found.hexdigest().encode()
