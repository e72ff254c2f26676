"""A metric that measures nothing, to time everything around a measurement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phasegrid.declare import Column, Metric


@dataclass(frozen=True, slots=True)
class NoopArgs:
    """`value` is what it returns."""

    value: float = 0.0


def compute(_models: Sequence[Any], _data: Any, _rng: Any, value: float) -> dict[str, float]:
    """Return `value` without touching a model."""
    return {"value": value}


NOOP = Metric(
    over="trial",
    args=NoopArgs,
    columns=(Column("value", "float64", "", "what was asked for"),),
    compute=compute,
)
