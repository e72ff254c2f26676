"""Project networks onto a line or a plane w + a d_1 + b d_2 whose directions need be neither of
length 1 nor orthogonal.

The coordinates x of an offset e = w' - w solve G x = (<d_1, e>, <d_2, e>), G the inner products of
the directions; the distance is |e - sum_i x_i d_i|. Letters: D directions, K networks, P
parameters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.directions.scaling import cosines, inner_products

PARALLEL = 1e-6
"""The least 1 - |cosine| of two directions that span a plane in float32."""


@dataclass(frozen=True, slots=True)
class Projected:
    """The coordinates (K, D) of networks, and their distances (K,), in float64."""

    coordinates: Tensor
    distances: Tensor


def check_plane(directions: Tensor) -> None:
    """Raise `MetricError` if two `directions` (2, P) lie on a line."""
    found = float(cosines(inner_products(directions))[0, 1])
    if 1 - abs(found) < PARALLEL:
        raise MetricError(
            f"slice: the two directions lie on a line (their cosine is {found:.7f}) and do not"
            " span a plane; choose others, or dimensions: 1"
        )


def project(offsets: Tensor, directions: Tensor) -> Projected:
    """Project networks at `offsets` (K, P) from w onto the span of `directions` (D, P)."""
    num = len(directions)
    products = inner_products(torch.cat([directions, offsets]))
    gram, mixed = products[:num, :num], products[:num, num:]
    coordinates = torch.linalg.solve(gram, mixed).t()
    inside = coordinates.to(directions.device) @ directions.double()
    left = torch.linalg.vector_norm(offsets.double() - inside, dim=1)
    return Projected(coordinates, left.cpu())
