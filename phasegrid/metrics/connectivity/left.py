"""A curve that mode connectivity has stored as an artifact, and points on it.

Letters: V vertices (end, bends in order, end), P parameters, T values of t.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import stack_vertices, vertex_weights
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.joining import Rest, place_point, rest_of_curve
from phasegrid.models.flat import FlatNetwork

FAR_END = "far_end"
"""The name in the artifact of the last vertex (P,) of a curve that does not end at the second
network.
"""


@dataclass(frozen=True, slots=True)
class LeftCurve:
    """The `vertices` (V, P) of a curve, the tensors that do not train along it, and the arguments
    of the measurement that stored it.
    """

    vertices: Tensor
    rest: Rest
    args: Mapping[str, Any]

    def coefficients(self, t: Tensor) -> Tensor:
        """Return the vertices' weights (T, V) at `t` (T,), in float64."""
        return vertex_weights(self.args["curve"], len(self.vertices) - 2, t)

    def place(self, flat: FlatNetwork, coefficients: Tensor) -> None:
        """Set a network to the mix of the vertices with `coefficients` (V,) (`place_point`)."""
        place_point(flat, self.vertices, self.rest, coefficients)


def read_curve(models: Sequence[nn.Module], sources: Sequence[Source], metric: str) -> LeftCurve:
    """Return the stored curve between two models that `metric` reads.

    Raises:
        MetricError: if there is not one curve, or it does not join these models.
    """
    if len(models) != 2 or len(sources) != 1:
        raise MetricError(
            f"{metric} reads one curve between two models; got {len(sources)} and {len(models)}"
        )
    bends = sources[0].tensors.get("bends")
    ends = stack_vertices(models)
    if bends is None or bends.shape[1:] != ends.shape[1:]:
        raise MetricError(
            f"{metric}: the artifact of {sources[0].metric} does not hold the bends of a curve"
            f" between networks with {ends.shape[1]:,} parameters"
        )
    far_end = sources[0].tensors.get(FAR_END)
    last, joined = (ends[1], models) if far_end is None else (far_end, [models[0], models[0]])
    vertices = torch.cat([ends[:1], bends.to(ends), last.to(ends).unsqueeze(0)])
    return LeftCurve(vertices, rest_of_curve(joined, len(bends)), sources[0].args)
