"""Directions that the metric ``directions`` has stored as an artifact.

Letters: D directions, P trainable parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.measured import Source
from phasegrid.models.weights import parameters_vector


@dataclass(frozen=True, slots=True)
class LeftDirections:
    """The `vectors` (D, P) of directions with these `names`, the `weights` (P,) through which they
    go, and the arguments of the measurement that stored them.
    """

    names: tuple[str, ...]
    vectors: Tensor
    weights: Tensor
    args: Mapping[str, Any]

    def pick(self, names: Sequence[str], metric: str) -> Tensor:
        """Return the directions with these names, (D, P), in this order, for `metric`.

        Raises:
            MetricError: if one of them is not there.
        """
        for name in names:
            if name not in self.names:
                raise MetricError(
                    f"{metric}: found the direction {name}, which was not stored; allowed:"
                    f" {', '.join(self.names)}"
                )
        return self.vectors[[self.names.index(name) for name in names]]


def read_directions(
    models: Sequence[nn.Module], sources: Sequence[Source], metric: str
) -> LeftDirections:
    """Return the stored directions through the first of `models` that `metric` reads.

    Raises:
        MetricError: if there is not one such artifact, or it belongs to other weights.
    """
    if not models or len(sources) != 1:
        raise MetricError(
            f"{metric} reads the directions through one network; got {len(sources)} artifacts and"
            f" {len(models)} models"
        )
    vectors, weights = (sources[0].tensors.get(name) for name in ("directions", "weights"))
    own = parameters_vector(models[0])
    names = tuple(cast("Sequence[str]", sources[0].args.get("along", ())))
    whole = vectors is not None and vectors.shape == (len(names), len(own))
    if not whole or vectors is None or weights is None:
        raise MetricError(
            f"{metric}: the artifact of {sources[0].metric} does not hold directions of a network"
            f" with {len(own):,} trainable parameters"
        )
    if not torch.equal(weights.to(own), own):
        raise MetricError(
            f"{metric}: the directions of {sources[0].metric} go through other weights than those"
            " of the network that is measured"
        )
    return LeftDirections(names, vectors.to(own), own, sources[0].args)
