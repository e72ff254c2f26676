"""Draw simplicial complexes in three dimensions, or in two if they are flat: vertices with their
loss as colour, edges, translucent faces, and measured points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import proj3d
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.names import lay_out, write_names
from phasegrid.analysis.draw.plane_points import listed
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.analysis.draw.slices import CONTOUR_COLOURS
from phasegrid.analysis.draw.ticks import write_log_ticks
from phasegrid.analysis.draw.vertices import is_connector, vertex_text
from phasegrid.texts import counted

Floats = npt.NDArray[np.float64]

ACROSS = 3
PANEL = (3.3, 3.2)  # inches
FLAT = 1e-6
"""A complex whose third axis holds less than this percentage of its spread is flat."""
FACE = "#3b6ea5"
EDGE = "0.25"
FACES_ALPHA = 0.5
"""The opacity of all the faces together; each of many is more translucent than each of few."""


@dataclass(frozen=True, slots=True)
class Shade:
    """A column that is the colour of vertices and points, its name, and the scale."""

    column: str
    label: str
    scale: Literal["linear", "log"] = "linear"


def complex_panels(
    rows: pd.DataFrame,
    shades: Sequence[Shade],
    *,
    most: int,
    points: bool = True,
    title: str = "",
) -> Figure:
    """Draw the first complex of each cell and way of measuring (of more than `most`, an evenly
    spread selection) side by side, each of `shades` below the one before.

    `rows` are those of a metric such as ``simplex``; `head` names a panel, `line` its way of
    measuring. Panels of a shade share its colours.
    """
    first = rows.drop_duplicates(["cell", "line"])
    shown = first.iloc[spread_out(len(first), most)].to_dict("records")
    down = math.ceil(len(shown) / ACROSS)
    across = math.ceil(len(shown) / down)
    spots = [index * down * across for index in range(len(shades))]
    rows_of_panels = down * len(shades)
    if len(shown) == 1:  # the losses of one complex stand side by side
        rows_of_panels, across, spots = 1, len(shades), list(range(len(shades)))
    size = (max(4.6, PANEL[0] * across + 0.9), PANEL[1] * rows_of_panels + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(wspace=0.08)  # the name of a third axis takes no room of its own
    drawn = []
    for shade, start in zip(shades, spots, strict=True):
        norm = _norm(shown, shade, points)
        own = []
        for place, row in enumerate(shown, start=start + 1):
            deep: Any = {} if _is_flat(row) else {"projection": "3d", "computed_zorder": False}
            ax = figure.add_subplot(rows_of_panels, across, place, **deep)
            _draw(ax, row, shade, norm, points)
            own.append(ax)
            drawn.append((ax, row))
        colours = ScalarMappable(norm, CONTOUR_COLOURS)
        bar = figure.colorbar(colours, ax=own, label=shade.label, fraction=0.04, pad=0.06)
        if shade.scale == "log":
            write_log_ticks(bar.ax.yaxis)
    columns = 5 if across > 1 else 3
    figure.legend(handles=_legend(shown, points), loc="outside lower center", ncols=columns)
    shares = counted(len(shown), "complex").replace("complexs", "complexes")
    counts = shares + (f" of {len(first)}" if len(shown) < len(first) else "")
    write_heading(figure, f"{title}\n{counts}" if title else counts)
    lay_out(figure)
    for ax, row in drawn:
        _name_vertices(ax, row)
    return figure


def placed(row: Mapping[Any, Any], kind: str) -> Floats:
    """Return the coordinates (N, 3), or (N, 2) of a flat complex, of its ``vertex`` or its
    ``sample`` points; a complex on a line has its second coordinates at 0.
    """
    axes = "xy" if _is_flat(row) else "xyz"
    found = [listed(row, f"{kind}_{axis}") for axis in axes]
    return np.array([own or [0.0] * len(found[0]) for own in found], dtype=float).T


def _is_flat(row: Mapping[Any, Any]) -> bool:
    shares = listed(row, "explained_percent")
    return len(shares) < 3 or shares[2] < FLAT


def _faces(row: Mapping[Any, Any], size: int) -> list[list[int]]:
    """Return the faces with so many vertices, each once."""
    simplexes = ([int(vertex) for vertex in one] for one in listed(row, "simplexes"))
    every = (face for one in simplexes for face in combinations(sorted(one), size))
    return list(map(list, dict.fromkeys(every)))


def _numbers(row: Mapping[Any, Any], name: str) -> Floats:
    return np.array([np.nan if one is None else one for one in listed(row, name)], dtype=float)


def _norm(rows: Sequence[Mapping[Any, Any]], shade: Shade, points: bool) -> Normalize:
    """Return the colours of a shade, for all vertices and points that are drawn."""
    kinds = ("vertex", "sample") if points else ("vertex",)
    values = np.concatenate([_numbers(row, f"{k}_{shade.column}") for row in rows for k in kinds])
    values = values[np.isfinite(values) & ((values > 0) | (shade.scale == "linear"))]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.1, 1.0)
    if not low < high:
        low, high = 0.9 * low, 1.1 * high + 1e-9
    return LogNorm(low, high) if shade.scale == "log" else Normalize(low, high)


def _draw(ax: Any, row: Mapping[Any, Any], shade: Shade, norm: Normalize, points: bool) -> None:
    places, names = placed(row, "vertex"), list(row["vertex_name"])
    losses = _numbers(row, f"vertex_{shade.column}")
    _draw_faces(ax, row, places)
    if points and listed(row, "sample_x"):
        there = placed(row, "sample")
        _scatter(ax, there, _numbers(row, f"sample_{shade.column}"), norm, s=9, linewidths=0)
    for connector, marker in ((False, "o"), (True, "D")):
        own = [place for place, name in enumerate(names) if is_connector(name) == connector]
        look = {"marker": marker, "s": 34 if connector else 46}
        _scatter(ax, places[own], losses[own], norm, edgecolors="black", linewidths=0.9, **look)
    _set_axes(ax, places)
    held = ", ".join(f"{share:.0f}" for share in listed(row, "explained_percent"))
    write_title(ax, row["head"], f"axes hold {held} % of the spread of vertices")


def _name_vertices(ax: Any, row: Mapping[Any, Any]) -> None:
    """Write the names of vertices, in a figure that is laid out."""
    places = placed(row, "vertex")
    if places.shape[1] == 3:
        places = np.stack(proj3d.proj_transform(*places.T, ax.get_proj())[:2], axis=1)
    write_names(ax, places, list(map(vertex_text, row["vertex_name"])), size=7.5)


def _draw_faces(ax: Any, row: Mapping[Any, Any], places: Floats) -> None:
    """Draw the faces and the edges of a complex."""
    triangles, lines = ([places[face] for face in _faces(row, size)] for size in (3, 2))
    alpha = 1 - (1 - FACES_ALPHA) ** (1 / max(1, len(triangles)) ** 0.5)
    look: Any = {"facecolors": FACE, "alpha": alpha, "linewidths": 0, "label": "faces"}
    if places.shape[1] == 2:
        ax.add_collection(PolyCollection(triangles, **look))
        ax.add_collection(LineCollection(lines, colors=EDGE, linewidths=0.8, label="edges"))
        return
    if triangles:
        ax.add_collection3d(Poly3DCollection(triangles, **look))
    ax.add_collection3d(Line3DCollection(lines, colors=EDGE, linewidths=0.8, label="edges"))


def _scatter(ax: Any, places: Floats, losses: Floats, norm: Normalize, **look: Any) -> None:
    """Draw points with their loss as colour; those without one are white."""
    if places.shape[1] == 3:
        look["depthshade"] = False
    colours = colormaps[CONTOUR_COLOURS](norm(np.ma.masked_invalid(losses).filled(norm.vmin)))
    colours[~np.isfinite(losses)] = 1.0
    ax.scatter(*places.T, c=colours, zorder=5, **look)


def _set_axes(ax: Any, places: Floats) -> None:
    """Give all axes one scale and their names, and choose a view."""
    ax.set_xlabel("axis 1")
    ax.set_ylabel("axis 2")
    if places.shape[1] == 2:
        ax.margins(0.15)
        ax.set_aspect("equal", adjustable="datalim")
        return
    ax.set_zlabel("axis 3")
    low, high = places.min(0), places.max(0)
    for which, start, end in zip("xyz", low, high, strict=True):
        room = 0.08 * (end - start)
        getattr(ax, f"set_{which}lim")(start - room, end + room)
    ax.set_box_aspect(np.maximum(high - low, 0.35 * (high - low).max()), zoom=0.95)
    elevation, azimuth = best_view(places)
    ax.view_init(elevation, azimuth)
    ax.grid(visible=False)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color("0.97")
        axis.set_major_locator(MaxNLocator(4))
        axis.labelpad = -6
        axis.label.set_size(7)
    ax.tick_params(labelsize=5.5, pad=-2)


def best_view(places: Floats) -> tuple[float, float]:
    """Return the elevation and the azimuth, in degrees, from which the closest two of some places
    (V, 3) are seen farthest apart.
    """
    turns = [quarter + turn for quarter in range(-180, 180, 90) for turn in range(25, 75, 10)]
    views = [(float(high), float(turn)) for high in (15, 25, 35) for turn in turns]
    return max(views, key=lambda view: _closest(places, *np.radians(view)))


def _closest(places: Floats, elevation: float, azimuth: float) -> float:
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    ahead = np.array([np.cos(azimuth), np.sin(azimuth), 0])
    up = np.cos(elevation) * np.array([0, 0, 1]) - np.sin(elevation) * ahead
    seen = places @ np.stack([right, up], axis=1)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    return float(apart[np.triu_indices(len(places), 1)].min())


def _legend(rows: Sequence[Mapping[Any, Any]], points: bool) -> list[Any]:
    def mark(marker: str, text: str, size: float = 5.5, edge: str = "black") -> Line2D:
        look: Any = {"markerfacecolor": "0.8", "markeredgecolor": edge, "markersize": size}
        return Line2D([], [], linestyle="none", marker=marker, label=text, **look)

    sampled = points and any(listed(row, "sample_x") for row in rows)
    return [
        mark("o", "mode w"),
        mark("D", "connector θ", 5),
        Line2D([], [], color=EDGE, linewidth=0.8, label="edge"),
        Patch(facecolor=FACE, alpha=0.25, label="face"),
        *([mark("o", "point of the complex", 3, "none")] if sampled else []),
    ]
