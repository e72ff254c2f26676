"""Numbers on the grid of a plane, and along lines over it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.network.points import Numbers, PointEvaluation, finite_or_none

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


def numbers(measured: Sequence[PointEvaluation]) -> dict[str, Numbers]:
    """Return what is measured at some points, by name; null where it is not finite."""
    found: dict[str, Numbers] = {}
    for part in ("train", "test"):
        each = [getattr(point, part) for point in measured]
        found[f"{part}_loss"] = [finite_or_none(one.loss) for one in each]
        found[f"{part}_error_percent"] = [
            one.error_percent if math.isfinite(one.loss) else None for one in each
        ]
    return found


def _place(axis: Sequence[float], at: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of an axis in which each of `at` (N,) lies and its place in it, in [0,
    1]; NaN for those beyond the ends.
    """
    ticks = torch.tensor(axis, dtype=torch.float64)
    index = (torch.searchsorted(ticks, at, right=True) - 1).clamp(0, len(ticks) - 2)
    share = (at - ticks[index]) / (ticks[index + 1] - ticks[index])
    room = 1e-9  # rounding at an end
    return index, torch.where((share < -room) | (share > 1 + room), math.nan, share)
