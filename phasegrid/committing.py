"""Several files that become visible together: the last one says that the others are there.

Two processes may commit the same thing at once, with contents that differ by rounding (a trial that two drivers trained in different
packs). One wins, and what it wrote must stay together.
"""

from collections.abc import Callable, Mapping
from typing import BinaryIO

from phasegrid.files import Files


def commit(files: Files, parts: Mapping[str, bytes], last: str, data: bytes) -> bool:
    """Write `parts` by name, then the file `last`; say whether this call wrote that. Nothing changes if `last` is there.

    Parts of an attempt that died are replaced. A part is left alone once `last` is there, which is asked just before each
    step; the winner then looks whether somebody came between its own steps and writes again what was replaced. (What is
    left: a loser that stands still between asking and its next system call, or request. ``verify`` finds it by the checksum.)
    """
    if files.exists(last):
        return False
    versions = {}
    for name, part in parts.items():
        version = files.replace(name, _writer(part), unless=last)
        if version is None:
            return False
        versions[name] = version
    if not files.create(last, data):
        return False
    for name, part in parts.items():
        if files.version(name) != versions[name]:
            files.replace(name, _writer(part))
    return True


def _writer(data: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(data)
