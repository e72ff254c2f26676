"""Several files that become visible together: the last one says that the others are there.

Two processes may commit the same thing at once, with contents that differ by rounding (a trial that
two drivers trained in different packs). One wins, and what it wrote must stay together.
"""

from collections.abc import Callable, Mapping
from typing import BinaryIO

from phasegrid.store.files.local import Files


def commit(files: Files, parts: Mapping[str, bytes], last: str, data: bytes) -> bool:
    """Write `parts` by name, then the file `last`; say whether this call wrote that. Nothing
    changes if `last` is there.

    Parts of an attempt that died are replaced. A part is left alone once `last` is there, which is
    asked just before each step; the winner then reads its parts, and writes again what another has
    replaced between its own steps. What is left: a loser that stands still between asking and its
    next system call, or request, and a winner that dies before it has looked. ``verify --deep``
    finds the weights of either by their checksum.
    """
    if files.exists(last):
        return False
    for name, part in parts.items():
        if not files.replace(name, _writer(part), unless=last):
            return False
    if not files.create(last, data):
        return False
    for name, part in parts.items():
        if files.read(name) != part:
            files.replace(name, _writer(part))
    return True


def _writer(data: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(data)
