"""Mark what lies on a plane in weight space, or is projected onto it: networks with their names,
trainings as lines through their checkpoints, curves with their bends and some t, the vertices of a
complex and its edges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from phasegrid.analysis.draw.names import HALO, write_names
from phasegrid.analysis.draw.vertices import is_connector, vertex_text

FAR = 0.05
"""A point is drawn grey from this distance from the plane on, as a share of the frame."""
TICKS = (0.25, 0.5, 0.75)
"""The values of t that are marked on a curve."""
NAMED = 6
"""Of more networks of one training only the first and the last are named."""

CURVE: Any = {"color": "black", "linewidth": 1.4}
SAMPLE: Any = {"color": "#e07b00", "linewidth": 0.7, "alpha": 0.75}
TRAINING: Any = {"color": "#b0413e", "linewidth": 1.2}
EDGE: Any = {"color": "black", "linewidth": 1.3}
STRAIGHT: Any = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 1.6))}
"""A side of a triangle of vertices that is no edge of the complex."""

FAR_FACE = "0.6"
_INK = "black"


@dataclass(frozen=True, slots=True)
class Point:
    """A point on a plane: its name, its distance from the plane, whether that is far, and whether
    it is a bend, or a connector of a complex.
    """

    u: float
    v: float
    name: str
    distance: float
    is_far: bool
    is_bend: bool

    def text(self) -> str:
        """Return what is written beside it."""
        return f"{self.name} ({self.distance:.2g} off)".lstrip() if self.is_far else self.name


def points_of(row: Mapping[Any, Any]) -> list[Point]:
    """Return the points of a plane; `names` are those of its networks, `points_name` those of the
    vertices of a complex. Rows of earlier releases have two ends, and a bend between.
    """
    u, v, vertices = row["points_u"], row["points_v"], listed(row, "points_name")
    bends = row.get("num_bends")
    num = 1 if bends is None or pd.isna(bends) else int(bends)
    distances = listed(row, "points_distance") or [0.0] * len(u)
    names = vertices or listed(row, "names") or [""] * (len(u) - num)
    if num:
        names = [names[0], *[""] * num, names[1]]
    between = [0 < place <= num for place in range(len(u))]
    if vertices:
        between, names = list(map(is_connector, vertices)), list(map(vertex_text, vertices))
    side = max(np.ptp(row["axis"]), np.ptp(row["axis_2"]))
    return [
        Point(x, y, name, distance, distance > FAR * side, is_between)
        for x, y, name, distance, is_between in zip(u, v, names, distances, between, strict=True)
    ]


def corners_of(row: Mapping[Any, Any]) -> list[Point]:
    """Return the three vertices of a complex that span a plane; none without a complex."""
    names, points = listed(row, "points_name"), points_of(row)
    return [points[names.index(corner)] for corner in listed(row, "corners")]


def draw_points(ax: Axes, row: Mapping[Any, Any]) -> None:
    """Mark the points of a plane that are in its frame, and draw the curve and the trainings
    (`courses`) on it.
    """
    path_u, path_v, t = (np.asarray(listed(row, f"path_{axis}")) for axis in "uvt")
    if len(t):
        ax.plot(path_u, path_v, path_effects=HALO, label="curve", **CURVE)
        for u, v, _ in _ticks_of(row):
            ax.plot(u, v, "o", markersize=2.5, color=_INK)
    _draw_triangle(ax, row)
    _draw_samples(ax, row)
    points = points_of(row)
    for course in listed(row, "courses"):
        along = ([getattr(points[place], axis) for place in course] for axis in "uv")
        ax.plot(*along, path_effects=HALO, label="training", **TRAINING)
    passed = _passed(row)
    for place, point in enumerate(points):
        if in_frame(row, point):
            _mark(ax, point, small=place in passed)


def name_points(ax: Axes, row: Mapping[Any, Any]) -> None:
    """Write the names of the marks on a plane, in a figure that is laid out: what spans the plane
    first, then the first and the last of a training, what is on it, and what is projected.
    """
    points, corners, passed = points_of(row), corners_of(row), _passed(row)
    ends = {place for course in listed(row, "courses") for place in (course[0], course[-1])}
    named = [
        (point in corners, place in ends, not point.is_far, point)
        for place, point in enumerate(points)
        if place not in passed and point.text() and in_frame(row, point)
    ]
    named.sort(key=lambda one: one[:3], reverse=True)
    texts = [(u, v, f"{t:g}") for u, v, t in _ticks_of(row)]
    texts += [(point.u, point.v, point.text()) for *_, point in named]
    marks = np.array([(point.u, point.v) for point in points if in_frame(row, point)])
    if texts:
        places = np.array([place for *place, _ in texts], dtype=float)
        write_names(ax, places, [text for *_, text in texts], others=marks)


def in_frame(row: Mapping[Any, Any], point: Point) -> bool:
    """Say whether a point is inside the frame of its plane."""
    u, v = row["axis"], row["axis_2"]
    return bool(u[0] <= point.u <= u[-1] and v[0] <= point.v <= v[-1])


def _passed(row: Mapping[Any, Any]) -> set[int]:
    """Return the places of the networks that have no name, as their training has many."""
    courses = listed(row, "courses")
    return {place for one in courses if len(one) > NAMED for place in one[1:-1]}


def _ticks_of(row: Mapping[Any, Any]) -> list[tuple[float, float, float]]:
    """Return the marked points of the curve on a plane: u, v and t."""
    u, v, t = (np.asarray(listed(row, f"path_{axis}"), dtype=float) for axis in "uvt")
    places = [int(np.abs(t - tick).argmin()) for tick in TICKS] if len(t) else []
    return [(float(u[place]), float(v[place]), float(t[place])) for place in places]


def _draw_samples(ax: Axes, row: Mapping[Any, Any]) -> None:
    """Draw bends that were sampled around that of the plane, and their curves."""
    for u, v in zip(listed(row, "samples_path_u"), listed(row, "samples_path_v"), strict=True):
        ax.plot(u, v, label="sample", **SAMPLE)
    bends = listed(row, "samples_u"), listed(row, "samples_v")
    ax.plot(*bends, linestyle="none", marker=".", markersize=3, color=SAMPLE["color"])


def _draw_triangle(ax: Axes, row: Mapping[Any, Any]) -> None:
    """Draw the sides of the triangle of vertices that spans a plane: edges of the complex, and
    others.
    """
    points = points_of(row)
    corners = corners_of(row)
    edges = [{points[int(place)] for place in edge} for edge in listed(row, "edges")]
    for side in combinations(corners, 2):
        look = EDGE if set(side) in edges else STRAIGHT
        name = "edge" if set(side) in edges else "straight"
        at = ([getattr(point, axis) for point in side] for axis in "uv")
        ax.plot(*at, path_effects=HALO, label=name, solid_capstyle="round", **look)


def legend_of(rows: Sequence[Mapping[Any, Any]]) -> list[Line2D]:
    """Return what a legend shows of the marks on some planes."""
    points = [point for row in rows for point in points_of(row)]
    times = ", ".join(map(str, TICKS))
    complexes = [row for row in rows if listed(row, "corners")]
    bent = any(p.is_bend for row in rows if not listed(row, "corners") for p in points_of(row))
    straight = any(len(listed(row, "edges")) < 3 for row in complexes)
    kinds = (
        (len(complexes) < len(rows), _handle("o", "white", "network")),
        (bent, _handle("D", "white", "bend of a curve")),
        (bool(complexes), _handle("o", "white", "mode w")),
        (bool(complexes), _handle("D", "white", "connector θ")),
        (bool(complexes), Line2D([], [], label="edge of the complex", **EDGE)),
        (straight, Line2D([], [], label="straight line that is no edge", **STRAIGHT)),
        (
            any(listed(row, "path_t") for row in rows),
            Line2D([], [], label=f"curve, t = {times}", marker=".", **CURVE),
        ),
        (
            any(listed(row, "samples_u") for row in rows),
            Line2D([], [], label="sampled curve", marker=".", **SAMPLE),
        ),
        (
            any(listed(row, "courses") for row in rows),
            Line2D([], [], label="training", marker=".", **TRAINING),
        ),
        (
            any(point.is_far for point in points),
            _handle("o", FAR_FACE, f"projected onto the plane from over {FAR:.0%} of its side"),
        ),
    )
    return [handle for there, handle in kinds if there]


def _handle(marker: str, face: str, text: str) -> Line2D:
    look: Any = {"markeredgecolor": _INK, "markerfacecolor": face, "markeredgewidth": 0.8}
    return Line2D([], [], linestyle="none", marker=marker, markersize=5, label=text, **look)


def _mark(ax: Axes, point: Point, small: bool) -> None:
    ax.scatter(
        [point.u],
        [point.v],
        s=8 if small else 22,
        marker="D" if point.is_bend else "o",
        facecolors=FAR_FACE if point.is_far else "white",
        edgecolors=_INK,
        linewidths=0.8,
        zorder=3,
        label="bends" if point.is_bend else "networks",
    )


def listed(row: Mapping[Any, Any], name: str) -> list[Any]:
    """Return the list in a column; an empty one where there is none."""
    found = row.get(name)
    return list(found) if isinstance(found, (list, np.ndarray, tuple)) else []
