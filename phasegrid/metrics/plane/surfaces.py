"""Numbers on the grid of a plane, and along lines over it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.network.points import Numbers, finite_or_none
from phasegrid.metrics.plane import SCALED

EDGE_POINTS = 101
Surface = list[Numbers]


@dataclass(frozen=True, slots=True)
class Grid:
    """The coordinates of a grid along u and v."""

    axis: Sequence[float]
    axis_2: Sequence[float]

    def highest(self, surface: Surface, lines: Sequence[tuple[Tensor, Tensor]]) -> float | None:
        """Return the highest number of a surface along `lines`, each of them u and v of its points;
        None without lines, or if one leaves the grid or passes beside a null.
        """
        if not lines:
            return None
        u, v = (torch.cat(parts) for parts in zip(*lines, strict=True))
        return finite_or_none(float(self.interpolated(surface, u, v).amax()))

    def interpolated(self, surface: Surface, u: Tensor, v: Tensor) -> Tensor:
        """Return the numbers at u and v (N,), linear in each between the points of the grid; NaN
        where they are missing.
        """
        rows = [[math.nan if value is None else value for value in row] for row in surface]
        values = torch.tensor(rows, dtype=torch.float64)
        (i, x), (j, y) = _place(self.axis, u), _place(self.axis_2, v)
        low = values[j, i] * (1 - x) + values[j, i + 1] * x
        high = values[j + 1, i] * (1 - x) + values[j + 1, i + 1] * x
        return low * (1 - y) + high * y


def line(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return u and v of points on the straight line between two points, whose u and v are (2,)."""
    t = torch.linspace(0, 1, EDGE_POINTS, dtype=torch.float64)
    return torch.lerp(u[0], u[1], t), torch.lerp(v[0], v[1], t)


def triangles(mixes: Tensor) -> tuple[Tensor, Tensor]:
    """Say which points of a plane (N, 3), as weights of its three vertices that sum to 1, lie in
    the triangle of these, and which outside of it in the triangle `SCALED` times as large around.

    With the centre c = (1/3, 1/3, 1/3), b is in the triangle scaled by s if c + (b - c) / s is in
    the triangle: if no weight is below (1 - s) / 3.
    """
    least = mixes.amin(dim=1) + 1e-9  # rounding on the sides
    inside = least >= 0
    return inside, ~inside & (least >= (1 - SCALED) / 3)


def mean_over(values: Numbers, chosen: Tensor) -> float | None:
    """Return the mean of the chosen (N,) of the first N values; None if there is none, or one of
    them is missing.
    """
    own = [value for value, taken in zip(values, chosen.tolist(), strict=False) if taken]
    present = [value for value in own if value is not None]
    return math.fsum(present) / len(own) if own and len(present) == len(own) else None


def _place(axis: Sequence[float], at: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of an axis in which each of `at` (N,) lies and its place in it, in [0,
    1]; NaN for those beyond the ends.
    """
    ticks = torch.tensor(axis, dtype=torch.float64)
    index = (torch.searchsorted(ticks, at, right=True) - 1).clamp(0, len(ticks) - 2)
    share = (at - ticks[index]) / (ticks[index + 1] - ticks[index])
    room = 1e-9  # rounding at an end
    return index, torch.where((share < -room) | (share > 1 + room), math.nan, share)
