"""The directions of a slice: found here, or read from what another measurement left.

Letters: D directions, P trainable parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from phasegrid.metrics.directions.drawing import draw_directions
from phasegrid.metrics.directions.eigenvectors import Eigenvectors, top_eigenvectors
from phasegrid.metrics.directions.left import read_directions
from phasegrid.metrics.directions.scaling import Scaling, normalise, usual_scaling
from phasegrid.metrics.hessian.operator import with_right_products
from phasegrid.metrics.measured import Source
from phasegrid.metrics.slice import SliceArgs
from phasegrid.metrics.slice.evaluation import MovingNetwork
from phasegrid.metrics.slice.projecting import check_plane
from phasegrid.models.network_state import copy_network
from phasegrid.models.weights import parameter_slices
from phasegrid.tasks.scoring import Scoring

Normalize = Literal["filter", "none", "layer", "raw"]


@dataclass(frozen=True, slots=True)
class Along:
    """The scaled directions (D, P) of a slice, how they were normalised, the names of those that
    were read, and the eigenvectors among those that were found.
    """

    vectors: Tensor
    normalize: str
    names: tuple[str, ...] | None = None
    found: Eigenvectors | None = None


def read_along(
    models: Sequence[nn.Module], sources: Sequence[Source], settings: SliceArgs
) -> Along:
    """Return the stored directions through the first of `models` that are asked for, each scaled as
    asked, or as is usual for its kind.

    Raises:
        MetricError: if they are not there or belong to other weights, one becomes zero, or two lie
            on a line.
    """
    left = read_directions(models, sources, "slice")
    names = left.names[: settings.dimensions] if settings.along is None else settings.along
    scaled, ways = [], list[str]()
    for name in names:
        how = _usual(name) if settings.normalize == "auto" else settings.normalize
        ways.append(how)
        scaled.append(_normalised(left.pick([name], "slice"), left.weights, models[0], how))
    vectors = torch.cat(scaled)
    if len(vectors) == 2:
        check_plane(vectors)
    return Along(vectors, ", ".join(dict.fromkeys(ways)), tuple(names))


def find_directions(
    network: MovingNetwork,
    inputs: Tensor,
    labels: Tensor,
    scoring: Scoring,
    settings: SliceArgs,
    rng: torch.Generator,
) -> Along:
    """Draw random directions through a network, find eigenvectors of its Hessian, or take its
    weights, and scale them.
    """
    flat, weights, found = network.flat, network.flat.rows()[0], None
    if settings.directions == "hessian":
        centre = copy_network(flat.module)  # the operator may change its layout
        found = with_right_products(
            centre,
            network.lay_out(inputs),
            labels,
            rng,
            lambda H: top_eigenvectors(H, settings.dimensions, rng),
            scoring,
        )
        directions = found.vectors.to(weights)
    elif settings.directions == "weights":
        directions = weights.expand(settings.dimensions, -1)
    else:
        directions = draw_directions(settings.dimensions, weights, rng)
    how = settings.normalize
    if how == "auto":
        how = "filter" if settings.directions == "random" else "none"
    return Along(_normalised(directions, weights, flat.module, how), how, found=found)


def _usual(name: str) -> Normalize:
    return "none" if usual_scaling(name) == "norm" else "raw"


def _normalised(directions: Tensor, weights: Tensor, module: nn.Module, how: Normalize) -> Tensor:
    by: Scaling = "norm" if how == "none" else how
    kept = how in ("none", "raw")
    return normalise(directions, weights, parameter_slices(module), by, keep_biases=kept)
