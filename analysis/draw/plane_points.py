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
from matplotlib.patheffects import withStroke

from phasegrid.analysis.draw.vertices import is_connector, vertex_text

FAR = 0.05
"""A point is drawn grey from this distance from the plane on, as a share of the frame."""
TICKS = (0.25, 0.5, 0.75)
"""The values of t that are marked on a curve."""
LETTER, LINE = 0.026, 0.075
"""Width and height of a letter of a name, as shares of a map."""
NAMED = 6
"""Of more networks of one training only the first and the last are named."""

CURVE: Any = {"color": "black", "linewidth": 1.4}
SAMPLE: Any = {"color": "#e07b00", "linewidth": 0.7, "alpha": 0.75}
TRAINING: Any = {"color": "#b0413e", "linewidth": 1.2}
EDGE: Any = {"color": "black", "linewidth": 1.3}
STRAIGHT: Any = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 1.6))}
"""A side of a triangle of vertices that is no edge of the complex."""

_INK, _FAR_FACE = "black", "0.6"
_HALO = [withStroke(linewidth=1.8, foreground="white")]


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
    """Mark the points of a plane, and draw the curve and the trainings (`courses`) on it."""
    path_u, path_v, t = (np.asarray(listed(row, f"path_{axis}")) for axis in "uvt")
    if len(t):
        ax.plot(path_u, path_v, path_effects=_HALO, label="curve", **CURVE)
        for place in (int(np.abs(t - tick).argmin()) for tick in TICKS):
            ax.plot(path_u[place], path_v[place], "o", markersize=2.5, color=_INK)
            _write(ax, path_u[place], path_v[place], f"{t[place]:g}", size=5.5)
    _draw_triangle(ax, row)
    _draw_samples(ax, row)
    points = points_of(row)
    order, passed = list(range(len(points))), set[int]()
    for course in listed(row, "courses"):
        u, v = ([getattr(points[place], axis) for place in course] for axis in "uv")
        ax.plot(u, v, path_effects=_HALO, label="training", **TRAINING)
        first_last = [course[0], course[-1]]
        order = [*first_last, *(place for place in order if place not in first_last)]
        passed |= set(course[1:-1]) if len(course) > NAMED else set()
    for place, point in enumerate(points):
        _mark(ax, point, small=place in passed)
    order = sorted(order, key=lambda place: points[place].is_far)  # those on the plane come first
    _write_names(ax, [points[p] for p in order if p not in passed and points[p].text()])


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
        ax.plot(*at, path_effects=_HALO, label=name, solid_capstyle="round", **look)


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
            _handle("o", _FAR_FACE, f"off the plane by over {FAR:.0%} of its side"),
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
        facecolors=_FAR_FACE if point.is_far else "white",
        edgecolors=_INK,
        linewidths=0.8,
        zorder=3,
        label="bends" if point.is_bend else "networks",
    )


def _write_names(ax: Axes, points: Sequence[Point]) -> None:
    """Write names beside points, each at the first place where no other is written yet; a name
    without a place is left out.
    """
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    taken: list[tuple[float, float, float]] = []
    for point in points:
        x, y = (point.u - left) / (right - left), (point.v - low) / (high - low)
        length = LETTER * len(point.text())
        sides = (x - length, x) if x + length > 1 else (x, x - length)
        for start, above in ((side, above) for above in (True, False) for side in sides):
            level = y + LINE * (0.5 if above else -0.5)
            inside = start > -LETTER and start + length < 1 + LETTER
            if inside and not any(
                abs(level - other) < LINE and start < end and begin < start + length
                for begin, end, other in taken
            ):
                taken.append((start, start + length, level))
                _write(ax, point.u, point.v, point.text(), start < x, above)
                break


def _write(
    ax: Axes,
    u: float,
    v: float,
    text: str,
    left: bool = False,
    above: bool = True,
    size: float = 6.5,
) -> None:
    note = ax.annotate(
        text,
        (u, v),
        (-4 if left else 4, 3 if above else -4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom" if above else "top",
        fontsize=size,
        path_effects=_HALO,
        zorder=4,
    )
    note.set_in_layout(False)


def listed(row: Mapping[Any, Any], name: str) -> list[Any]:
    """Return the list in a column; an empty one where there is none."""
    found = row.get(name)
    return list(found) if isinstance(found, (list, np.ndarray, tuple)) else []
