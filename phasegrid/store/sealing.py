"""Put a checksum of the whole file into the file, so that damage by a disk, a copy or bad memory is
found before the file is parsed.

Parquet's key-value metadata and safetensors' ``__metadata__`` each hold one text: a mark and 64
hexadecimal digits. The digits are the SHA-256 of the file as it was while these digits were zeros.
Other readers ignore the text. Files of earlier releases have no checksum, and are read without this
check.
"""

import hashlib

KEY = "phasegrid.checksum"
BLANK = "phasegrid-sha256:" + "0" * 64
"""The placeholder that a writer puts under `KEY`; `seal` fills it in."""
_MARK = BLANK[:-64].encode()
_ZEROS = b"0" * 64


def seal(data: bytes, end: int | None = None) -> bytes:
    """Fill the checksum into a finished file that holds `BLANK` once, under `KEY`; `end` is the
    offset where the text around it ends.
    """
    place = data.rfind(_MARK + _ZEROS, 0, end)
    assert place >= 0, "the file was written without the place for its checksum"
    place += len(_MARK)
    return b"".join((data[:place], _digest(data, place), data[place + 64 :]))


def is_sealed(data: bytes, end: int | None = None) -> bool:
    """Say whether a file has a checksum, or had one before it was damaged."""
    return data.rfind(_MARK, 0, end) >= 0 or data.rfind(KEY.encode(), 0, end) >= 0


def is_intact(data: bytes, end: int | None = None) -> bool:
    """Say whether a sealed file is unchanged since it was written."""
    place = data.rfind(_MARK, 0, end) + len(_MARK)
    return place >= len(_MARK) and data[place : place + 64] == _digest(data, place)


def _digest(data: bytes, place: int) -> bytes:
    """Return the checksum that a file should have, whose digits begin at `place`."""
    whole = memoryview(data)
    found = hashlib.sha256(whole[:place])
    found.update(_ZEROS)
    found.update(whole[place + 64 :])
    return found.hexdigest().encode()
