"""Define the artifacts that a measurement returns with its rows, and those that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True)
class Source:
    """An artifact of another measurement: its tensors, on the device of the models, its name, and
    the metric that stored it, with its arguments. If it is about one network: the epochs of each
    training behind that network, by the key of its trial; a stage comes with those before it.
    """

    tensors: "Mapping[str, Tensor]"
    name: str
    metric: str
    args: Mapping[str, Json]
    epochs: Mapping[str, float] = field(default_factory=dict)
