"""A metric that measures nothing and takes as long as `PAUSE` says: a sweep of many short jobs, for
as long as faults need.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phasegrid.declare import Column, Metric

PAUSE = "SOAK_PAUSE_S"


@dataclass(frozen=True, slots=True)
class NoopArgs:
    """`value` is what it returns."""

    value: float = 0.0


def compute(_models: Sequence[Any], _data: Any, _rng: Any, value: float) -> dict[str, float]:
    """Return `value` after a pause."""
    time.sleep(float(os.environ.get(PAUSE, "0")))
    return {"value": value}


NOOP = Metric(
    over="trial",
    args=NoopArgs,
    columns=(Column("value", "float64", "", "what was asked for"),),
    compute=compute,
)
