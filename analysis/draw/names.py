"""Write names beside points where they can be read: not on each other, and not on other points."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

HALO = [withStroke(linewidth=1.8, foreground="white")]
REACHES = (5.8, 14.0, 22.0, 32.0, 44.0, 58.0)
"""Distances of a name from its point that are tried, in points; a line joins them beyond the first.
"""
TURNS = (45, 135, -45, -135, 90, -90, 0, 180, 20, 160, -20, -160, 70, 110, -70, -110)
"""Directions from a point to its name that are tried at each distance, in degrees."""
ASIDE = 0.3
"""A name starts or ends beside its point if its direction points so far to that side."""
MARK = 4.0
"""Half the size of a mark, in points."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, in points of the page."""

    left: float
    low: float
    right: float
    high: float

    def shared(self, other: "Box") -> float:
        """Return the area that two rectangles share."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.high, other.high) - max(self.low, other.low)
        return max(0.0, wide) * max(0.0, high)

    def outside(self, frame: "Box") -> float:
        """Return the area of this rectangle that is outside another."""
        return (self.right - self.left) * (self.high - self.low) - self.shared(frame)


def lay_out(figure: Figure) -> None:
    """Give the Axes of a complete figure their places, which names need."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    for ax in figure.axes:
        ax.apply_aspect()


def write_names(
    ax: Axes,
    places: Floats,
    texts: Sequence[str],
    *,
    others: Floats | None = None,
    size: float = 6.5,
) -> None:
    """Write a name beside each of some places (N, 2) of a figure that is laid out, the first ones
    nearest: where it covers no name, none of these places and none of `others` (M, 2), inside the
    frame; a name that is not next to its place is joined to it by a thin line.
    """
    marks = places if others is None else np.concatenate([places, others])
    taken = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in _on_page(ax, marks)]
    (left, low), (right, high) = _on_page(ax, np.array([[0.0, 0.0], [1.0, 1.0]]), ax.transAxes)
    frame = Box(left, low, right, high)
    for place, at, text in zip(places, _on_page(ax, places), texts, strict=True):
        shape = _shape(text, size)
        shift, reach, box = min(
            _spots(at, shape),
            key=lambda spot: (
                round(sum(spot[2].shared(other) for other in taken) + spot[2].outside(frame), 1),
                spot[1],
            ),
        )
        taken.append(box)
        _write(ax, place, text, shift, size, joined=reach > REACHES[0])


def _on_page(ax: Axes, places: Floats, transform: object = None) -> Floats:
    """Return places in points of the page."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    found = (transform or ax.transData).transform(places)  # type: ignore[attr-defined]
    return np.asarray(found, dtype=float) * 72 / figure.dpi


def _shape(text: str, size: float) -> tuple[float, float]:
    """Return the width and the height of a text, in points."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) + 1.0, 1.05 * size


def _spots(
    at: Floats, shape: tuple[float, float]
) -> Iterator[tuple[tuple[float, float], float, Box]]:
    """Yield the places for a text: the shift of its middle from the point, how far, and its box."""
    wide, high = shape[0] / 2, shape[1] / 2
    for reach in REACHES:
        for turn in TURNS:
            across, up = np.cos(np.radians(turn)), np.sin(np.radians(turn))
            x = float(across * reach + np.sign(across) * wide * (abs(across) > ASIDE))
            y = float(up * reach + np.sign(up) * high * (abs(up) > ASIDE))
            middle = at[0] + x, at[1] + y
            box = Box(middle[0] - wide, middle[1] - high, middle[0] + wide, middle[1] + high)
            yield (x, y), reach, box


def _write(
    ax: Axes, place: Floats, text: str, shift: tuple[float, float], size: float, *, joined: bool
) -> None:
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.25", "shrinkA": 0.0, "shrinkB": 2.5}
    note = ax.annotate(
        text,
        (float(place[0]), float(place[1])),
        shift,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        path_effects=HALO,
        zorder=20,
        gid="name",
        arrowprops=line if joined else None,
    )
    note.set_in_layout(False)
