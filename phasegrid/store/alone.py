"""What one measurement without a sweep gives to who reads the store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from phasegrid.store.store import Store


@dataclass(frozen=True, slots=True)
class Alone:
    """A measurement without a sweep: the metric, as its table is called, and the key; whether it
    `was_stored` before; and the unit of its losses.
    """

    metric: str
    key: str
    was_stored: bool
    unit_of_loss: str


Measure: TypeAlias = Callable[
    [Store, str, Sequence[str], Sequence[str], Mapping[str, object]], Alone
]
"""Measures stored networks by a metric, with settings and arguments."""
