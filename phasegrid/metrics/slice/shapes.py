"""Name the surface of a loss around the weights by its curvature along both directions.

With c = (L(-h) - 2 L(0) + L(h)) / h^2 along a direction, its sign is that of the directional second
derivative d^T H d, up to the change of that over h. The standard error is that of the mean over the
examples, each differenced with itself: it says whether the curvature would be there with other
examples. Letters: N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.slice.evaluation import Examples, MovingNetwork

ROUNDING = 8
"""Changes of the loss below so many units in its last place, in the precision of the network, are
rounding.
"""

SHAPES = {
    (1, 1): "bowl",
    (-1, -1): "bottle_bottom",
    (-1, 1): "saddle",
    (0, 1): "trough",
    (-1, 0): "ridge",
    (0, 0): "flat",
}
"""Names by the signs of both curvatures, ascending: bowl, saddle and the bottom of a bottle (Xu et
al. 2024, section 2.6); with 0, a curvature that does not stand out from noise.
"""


@dataclass(frozen=True, slots=True)
class Curvature:
    """A second derivative along a direction, its standard error over the examples, and its sign: 0
    if it does not stand out from noise.
    """

    value: float | None
    stderr: float | None
    sign: int | None


def curvatures(
    network: MovingNetwork,
    directions: Tensor,
    examples: Examples,
    step: float,
    significance: float,
) -> list[Curvature]:
    """Return the curvature along each of `directions` (D, P) at the present weights, over a `step`
    to both sides. Afterwards the weights are the same.
    """
    centre = network.flat.rows()[0]

    def losses(weights: Tensor) -> Tensor:
        network.flat.assign(weights)
        network.settle()
        return network.each(examples)[0]

    at_centre, found = losses(centre), list[Curvature]()
    noise = ROUNDING * torch.finfo(centre.dtype).eps * float(at_centre.mean().abs())
    for direction in directions:
        sides = [losses(torch.add(centre, direction, alpha=t)) for t in (-step, step)]
        found.append(curvature((sides[0], at_centre, sides[1]), step, significance, noise))
    network.flat.assign(centre)
    network.settle()
    return found


def curvature(
    losses: Sequence[Tensor], step: float, significance: float, rounding: float = 0.0
) -> Curvature:
    """Return the curvature of losses (N,) of examples at -step, 0 and step; of mean losses that are
    off by `rounding`.

    >>> curvature(torch.tensor([[3.0], [1.0], [3.0]]).double(), 2.0, 2.0)
    Curvature(value=1.0, stderr=0.0, sign=1)
    """
    before, centre, after = losses
    each = (before - 2 * centre + after) / step**2
    value = finite_or_none(float(each.mean()))
    if value is None:
        return Curvature(None, None, None)
    stderr = float(each.std()) / len(each) ** 0.5 if len(each) > 1 else 0.0
    stands_out = abs(value) > max(significance * stderr, rounding / step**2)
    return Curvature(value, stderr, (1 if value > 0 else -1) if stands_out else 0)


def surface_shape(found: Sequence[Curvature]) -> str | None:
    """Name a surface by the curvature along its two directions; None if one is missing.

    >>> surface_shape([Curvature(2.0, 0.1, 1), Curvature(-1.0, 0.1, -1)])
    'saddle'
    """
    signs = [one.sign for one in found if one.sign is not None]
    if len(signs) < 2:
        return None
    first, second = sorted(signs)
    return SHAPES[first, second]
