"""Fields over the plane of two inputs: their grid, their roughness, and which places are near data.

Letters: N points, U and V places of a grid along the first and the second input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """The first input of the places of a grid (U,), and the second (V,), in float64."""

    axis: Tensor
    axis_2: Tensor

    @property
    def places(self) -> Tensor:
        """The inputs (V U, 2) at all places, line by line."""
        second, first = torch.meshgrid(self.axis_2, self.axis, indexing="ij")
        return torch.stack([first.flatten(), second.flatten()], dim=1)


def grid_around(points: Tensor, num: int, margin: float) -> Grid:
    """Return num x num places over the bounding rectangle of points (N, 2), extended by `margin` of
    its width and height on every side.
    """
    low, high = points.double().amin(0), points.double().amax(0)
    more = margin * (high - low)
    ends = zip((low - more).tolist(), (high + more).tolist(), strict=True)
    first, second = (
        torch.linspace(a, b, num, dtype=torch.float64, device=points.device) for a, b in ends
    )
    return Grid(first, second)


def usual_radius(points: Tensor) -> float:
    """Return the median distance of a point (N, 2) from its nearest other."""
    apart = torch.cdist(points.double(), points.double())
    return float(apart.fill_diagonal_(torch.inf).amin(1).median())


def are_away(places: Tensor, points: Tensor, radius: float) -> Tensor:
    """Say for each place (K, 2) whether no point (N, 2) lies within `radius`."""
    return torch.cdist(places.double(), points.double()).amin(1) > radius


def roughness(field: Tensor, grid: Grid) -> float:
    """Return the mean of |grad p|^2 over the places of a field p (V, U): central differences, and
    one-sided ones on the border.

    >>> line = torch.linspace(0, 1, 3, dtype=torch.float64)
    >>> roughness(2 * line.expand(3, 3), Grid(line, line))
    4.0
    """
    along = torch.gradient(field, spacing=(grid.axis_2, grid.axis))
    return float(sum(part.square() for part in along).mean())  # type: ignore[union-attr]
