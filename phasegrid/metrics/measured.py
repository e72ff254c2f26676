"""Define the artifacts that a measurement returns with its rows, and those that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from phasegrid.keys import Json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of a measurement and its artifacts: named tensors, by the names that the metric
    declares in `leaves`.

    ``compute`` may return this instead of rows. Artifacts are written before the rows that name
    them.
    """

    rows: Any
    artifacts: "Mapping[str, Mapping[str, Tensor]]"


Passes: TypeAlias = Mapping[str, float]
"""Passes forward and backward through the whole training set, by the key of the job that took them:
the epochs of a trial and of the stages before it, and what a measurement trained (`Metric.passes`).
"""


@dataclass(frozen=True, slots=True)
class Source:
    """An artifact of another measurement: its tensors, on the device of the models, its name, and
    the metric that stored it, with its arguments. `passes` are those through the training data that
    were needed for it; empty if that is not known.
    """

    tensors: "Mapping[str, Tensor]"
    name: str
    metric: str
    args: Mapping[str, Json]
    passes: Passes = field(default_factory=dict)


def joined(some: Passes, others: Passes) -> Passes:
    """Return the passes of both; those of one job count once, as far as it went.

    >>> joined({"a": 3.0}, {"a": 5.0, "b": 2.0})
    {'a': 5.0, 'b': 2.0}
    """
    return {**some, **{key: max(num, some.get(key, 0.0)) for key, num in others.items()}}
