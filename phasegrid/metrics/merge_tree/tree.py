"""The merge tree of the sublevel sets of a function on a grid.

Points are taken by rising value. A point without a lower neighbour begins a component, at a
minimum; a point between components joins them, at a saddle. Where components join, all but the one
with the lowest minimum end: the persistence of their minima is the height of the saddle above them
(the elder rule: Edelsbrunner and Harer 2010, section VII.1). Letters: R, C rows and columns.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]

BESIDE = ((-1, 0), (0, -1), (0, 1), (1, 0))
AROUND = {4: BESIDE, 8: (*BESIDE, (-1, -1), (-1, 1), (1, -1), (1, 1))}


@dataclass(slots=True)
class Minimum:
    """A minimum: its value; that of the `first` saddle at which its component joins another; and
    that of its `death`, where it joins one with a lower minimum (infinity for the lowest).
    """

    birth: float
    first: float = math.inf
    death: float = math.inf


@dataclass(slots=True)
class _Components:
    """A forest over the points that were taken, and the minimum of each root."""

    parents: dict[int, int] = field(default_factory=dict)
    minima: dict[int, Minimum] = field(default_factory=dict)

    def root(self, point: int) -> int:
        while self.parents[point] != point:
            self.parents[point] = self.parents[self.parents[point]]
            point = self.parents[point]
        return point


def minima_of(grid: Grid, neighbours: int = 4, least: float = 0.0) -> list[Minimum]:
    """Return the minima of `grid` (R, C) by rising value. One of which the persistence is at most
    `least` is none. Points that are not finite are not part of the grid.
    """
    columns, values = grid.shape[1], grid.ravel()
    order = [int(p) for p in np.argsort(values, kind="stable") if math.isfinite(values[p])]
    parts, ended = _Components(), []
    for point in order:
        value = float(values[point])
        around = {
            parts.root(other)
            for other in _around(point, grid.shape[0], columns, neighbours)
            if other in parts.parents
        }
        by_depth = sorted(around, key=lambda root: parts.minima[root].birth)
        parts.parents[point] = by_depth[0] if by_depth else point
        if not by_depth:
            parts.minima[point] = Minimum(value)
        ended += _join(parts, by_depth, value, least)
    return sorted([*ended, *parts.minima.values()], key=lambda minimum: minimum.birth)


def saddle_minimum_average_distance(minima: list[Minimum]) -> float:
    """Return the mean height of the first saddle above its minimum; 0 for a single minimum (Chen et
    al. 2026; their published code).
    """
    heights = [m.first - m.birth for m in minima if math.isfinite(m.first)]
    return sum(heights) / len(heights) if heights else 0.0


def _join(parts: _Components, roots: list[int], value: float, least: float) -> list[Minimum]:
    """Join components, the one with the lowest minimum first, at a saddle; return the minima that
    end there.
    """
    ended = []
    for root in roots[1:]:
        minimum = parts.minima.pop(root)
        parts.parents[root] = roots[0]
        if value - minimum.birth <= least:
            continue  # noise: the saddle is none either
        minimum.first, minimum.death = min(minimum.first, value), value
        elder = parts.minima[roots[0]]
        elder.first = min(elder.first, value)
        ended.append(minimum)
    return ended


def _around(point: int, rows: int, columns: int, neighbours: int) -> list[int]:
    r, c = divmod(point, columns)
    return [
        (r + i) * columns + c + j
        for i, j in AROUND[neighbours]
        if 0 <= r + i < rows and 0 <= c + j < columns
    ]
