"""Commit several files together: the last file to appear says that the others are complete.

Two processes may commit the same thing at once, with contents that differ by rounding (two drivers
trained one trial in different packs). One of them wins, and all files must then be the winner's.
"""

from collections.abc import Callable, Mapping
from typing import BinaryIO

from phasegrid.store.files.base import Files


def commit(files: Files, parts: Mapping[str, bytes], last: str, data: bytes) -> bool:
    """Write `parts` by name, then the file `last`; return whether this call wrote `last`. If `last`
    exists already, nothing changes.

    Parts of an attempt that died are replaced. Before each step, the call checks for `last`; once
    `last` exists, it replaces no part. The winner then reads its parts back, and rewrites any part
    that another process replaced between the winner's steps. Two gaps remain: a loser that pauses
    between its check and its next system call or request, and a winner that dies before it reads
    its parts back. ``verify --deep`` finds the weights of both cases by their checksum.
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
