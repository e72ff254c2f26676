"""What a check of arguments finds."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Finding: TypeAlias = tuple[str, str]
"""A mistake: the name of the argument, and the message."""

Rule: TypeAlias = Callable[[Mapping[str, Any]], Finding | None]
"""Checks resolved arguments against each other; returns the first mistake, or None."""

SourceRule: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], Finding | None]
"""Checks arguments against those of the request that is read."""
