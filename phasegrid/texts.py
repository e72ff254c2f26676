"""Texts of values for people."""

import difflib
from collections.abc import Iterable, Sequence

MOST_LISTED, NEAREST = 16, 5
"""The most names that a message lists, and how many it has of more."""


def duration(seconds: float) -> str:
    """Write seconds as a person would: ``42 s``, ``3 min 05 s``, ``7 h 12 min``, ``3 d 4 h``.

    >>> duration(185)
    '3 min 05 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def suggest(found: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` if one of `allowed` resembles `found`, else an empty text."""
    close = difflib.get_close_matches(found, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[str], found: str, all_of: str = "") -> str:
    """List names; of very many, those that resemble `found`, and say where there are `all_of` them.

    >>> listed(["t", "loss"], "los"), listed([f"c{n}" for n in range(99)], "c50", "schema")
    ('t, loss', 'c50, c5, c0, c95, c90 and 94 others (schema)')
    """
    known = list(names)
    if len(known) <= MOST_LISTED:
        return ", ".join(known)
    inside = [name for name in known if found and found in name]
    close = difflib.get_close_matches(found, known, n=NEAREST, cutoff=0.0)
    near = list(dict.fromkeys([*inside, *close]))[:NEAREST]
    where = f" ({all_of})" if all_of else ""
    return f"{', '.join(near)} and {len(known) - len(near)} others{where}"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun, in the plural unless it is 1.

    >>> counted(1, "sweep"), counted(2000, "cell")
    ('1 sweep', '2000 cells')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def either(names: Sequence[str]) -> str:
    """Join names of which one is meant.

    >>> either(["curve"]), either(["curve", "complex"])
    ('curve', 'curve or complex')
    """
    return " or ".join(names)


def bytes_text(num: float) -> str:
    """Write a number of bytes in decimal units.

    >>> bytes_text(12), bytes_text(950_000), bytes_text(23_400_000_000)
    ('12 bytes', '950.0 kB', '23.4 GB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if num < 1000:
            return f"{num:.0f} {unit}" if unit == "bytes" else f"{num:.1f} {unit}"
        num /= 1000
    return f"{num:.1f} TB"
