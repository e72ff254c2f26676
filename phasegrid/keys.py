"""Canonical JSON, and the keys and seeds that are derived from it.

A job's key is the first 32 hexadecimal digits of the SHA-256 of ``[kind, version, resolved
specification]`` as canonical JSON. Standard library only.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

KEY_DIGITS = 32


def canonical_json(value: Json) -> str:
    """Write `value` as canonical JSON: sorted keys, no spaces, shortest floats.

    An integral float is written as a float (``1.0``), so values must be converted to their declared
    types first.

    Raises:
        ValueError: for NaN or an infinity, which JSON does not have.
        TypeError: for a value that JSON does not have.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def as_label(value: Json) -> str | None:
    """Return the label of an axis value: text as it is, null as None, anything else as canonical
    JSON.
    """
    if value is None or isinstance(value, str):
        return value
    return canonical_json(value)


def text_key(text: str) -> str:
    """Return the key of a specification that is given as canonical JSON text."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def content_key(kind: str, version: int, spec: Json) -> str:
    """Return the key of a job: 32 hexadecimal digits of SHA-256 over canonical JSON.

    >>> content_key("trial", 1, {"seed": 0}) == content_key("trial", 1, {"seed": 1})
    False
    """
    return text_key(canonical_json([kind, version, spec]))


def stream_seed(seed: int | str, stream: str) -> int:
    """Derive the 63-bit seed of a named random stream from a trial's seed or a job's key.

    Streams of one trial (``init``, ``order``, ``augment``) are independent of each other and of the
    streams of other trials.
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
