"""Draw the loss along lines through networks, several directions in a panel."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headed import headed_panels
from phasegrid.analysis.draw.line_looks import DASHES
from phasegrid.analysis.draw.plane_points import listed

OTHER = "#b0413e"
"""The colour of the mark at the network that a line leads to."""

SECOND_ORDER: Any = {"color": OTHER, "linewidth": 2.2, "alpha": 0.7}

KINDS = {
    "gaussian": "Gaussian",
    "gradient": "negative gradient",
    "to": "to network",
    "weights": "the weights",
    "positive": "P.E.",
    "negative": "N.E.",
    "w_peak": "mined (w-peak)",
    "vvv_basin": "mined (vvv-basin)",
    "component": "component",
    "aligned": "nearest Gaussian of",
}
"""The kinds of directions for readers, with the abbreviations of Xu et al. 2024."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a panel shows: a column of lines, its label and scale, whether with second-order
    approximations, and with the loss of a guess.
    """

    column: str
    label: str
    scale: Literal["linear", "log"] = "linear"
    patches: bool = False
    guess: bool = False


def direction_name(direction: str) -> str:
    """Return the name of a direction for readers.

    >>> direction_name("positive_2"), direction_name("w_peak")
    ('P.E. 2', 'mined (w-peak)')
    """
    if direction in KINDS:
        return KINDS[direction]
    kind, _, number = direction.rpartition("_")
    return f"{KINDS.get(kind, kind)} {number}"


def profile_panels(
    rows: pd.DataFrame,
    what: Profile,
    *,
    most: int,
    columns: int | None = None,
    share_y: bool = False,
    title: str = "",
) -> Figure:
    """Draw a panel for each ``head`` of the rows of ``lines``, each row a line in it; of more than
    `most` panels an evenly spread selection.
    """
    directions = list(dict.fromkeys(rows["direction"]))
    return headed_panels(
        list(dict.fromkeys(rows["head"])),
        lambda ax, head: profile_axes(ax, rows[rows["head"] == head], what, directions, head),
        _handles(rows, what, directions),
        most=most,
        columns=columns,
        share_y=share_y,
        title=title,
    )


def profile_axes(
    ax: Axes, rows: pd.DataFrame, what: Profile, directions: Sequence[str], head: str = ""
) -> Axes:
    """Draw the lines of a network, the colour of each by the place of its direction among all."""
    for row in rows.to_dict("records"):
        look = _look(str(row["direction"]), directions)
        x, y = (np.array(row[name], dtype=float) for name in ("axis", what.column))
        ax.plot(x, y, **look)
        if what.patches:
            _draw_patches(ax, row, x[-1] - x[0])
    ax.axvline(0, color="black", linestyle=":", linewidth=0.9)
    if rows["direction"].str.startswith("to_").any() and rows["axis"].map(max).max() >= 1:
        ax.axvline(1, color=OTHER, linestyle=":", linewidth=0.9)
    ax.set_yscale(what.scale)
    if what.guess:
        low, high = ax.get_ylim()  # it does not stretch the panel of a lower loss
        ax.axhline(np.log(rows["num_classes"].iloc[0]), color="0.5", linestyle=":", linewidth=0.9)
        ax.set_ylim(low, high)
    ax.set_xlabel("t")
    ax.set_ylabel(what.label)
    write_title(ax, head, shapes_in_words(rows))
    return ax


def shapes_in_words(rows: pd.DataFrame) -> str:
    """Say which shapes lines have, and in brackets their mean number of stationary points."""
    shapes = Counter(str(shape) for shape in rows["shape"].dropna())
    named = [name if len(rows) == 1 else f"{num} {name}" for name, num in shapes.most_common()]
    known = rows["num_stationary_points"].dropna()
    mean = f" [{known.mean():.3g}]" if len(known) else ""
    broken = len(rows) - int(rows["shape"].notna().sum())
    lost = [f"{broken} not finite"] if broken else []
    return ", ".join([*named, *lost]) + mean


def _look(direction: str, directions: Sequence[str]) -> dict[str, Any]:
    place, num = directions.index(direction), len(directions)
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, max(num, 1)))
    return {"color": colours[place], "linestyle": DASHES[place % len(DASHES)], "linewidth": 1.2}


def _draw_patches(ax: Axes, row: Mapping[Any, Any], width: float) -> None:
    """Draw the second-order approximations of a line, each over a twentieth of it."""
    lists = [listed(row, f"patch_{name}") for name in ("t", "loss", "slope", "curvature")]
    step = np.linspace(-width / 40, width / 40, 21)
    for t, loss, slope, curvature in zip(*lists, strict=True):
        ax.plot(t + step, loss + slope * step + curvature * step**2 / 2, **SECOND_ORDER)


def _handles(rows: pd.DataFrame, what: Profile, directions: Sequence[str]) -> list[Line2D]:
    there = set(rows["direction"])
    handles = [
        Line2D([], [], label=direction_name(name), **_look(name, directions))
        for name in directions
        if name in there
    ]
    if what.patches and rows["patch_t"].notna().any():
        handles.append(Line2D([], [], label="second order", **SECOND_ORDER))
    if what.guess:
        handles.append(Line2D([], [], color="0.5", linestyle=":", label="ln of the classes"))
    return handles
