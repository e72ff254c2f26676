"""The artifacts that a measurement returns with its rows, and those that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phasegrid.keys import Json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows, and the artifacts that are left for other measurements: named tensors by the names that
    the metric declares in `leaves`.

    ``compute`` may return one instead of its rows. What is left is written before the rows that
    name it.
    """

    rows: Any
    artifacts: "Mapping[str, Mapping[str, Tensor]]"


@dataclass(frozen=True, slots=True)
class Source:
    """What another measurement has left: its tensors, on the device of the models, and the metric
    that left them with its arguments.
    """

    tensors: "Mapping[str, Tensor]"
    metric: str
    args: Mapping[str, Json]
