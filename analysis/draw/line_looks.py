"""Choose how the lines of a panel look, so that lines which lie on each other are all seen.

A line is told from the others by its colour, its dashes and, with few points, a marker at each.
Later lines are thinner and dashed, with smaller markers, so that an earlier one shows beside them
and between their dashes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", ">", "*", "<", "h")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (3, 1.2)),
    (0, (1.2, 1.2)),
    (0, (5, 1.2, 1.2, 1.2)),
    (0, (1.2, 2.4)),
)
FEW_POINTS = 20
"""A line with at most this many points has a marker at each; one with more has none, as markers at
some of them would look as if these were the measured ones.
"""

WIDTHS = (2.1, 0.8)  # points, of the first line and of the last
MARK_SIZES = (5.0, 2.3)
ALONE = (1.1, 2.6)
"""The width and the size of the markers of a line without others."""


def line_look(place: int, num: int, colour: npt.ArrayLike, num_points: int = 1) -> dict[str, Any]:
    """Return keywords of `Axes.plot` for one of `num` lines, at this `place` from 0 in the order in
    which they are drawn.

    >>> look = line_look(1, 3, "black")
    >>> look["marker"], round(look["linewidth"], 2), look["alpha"]
    ('s', 1.45, 0.85)
    """
    width, size = ALONE
    if num > 1:
        share = place / (num - 1)
        width, size = (float(np.interp(share, (0, 1), ends)) for ends in (WIDTHS, MARK_SIZES))
    return {
        "color": colour,
        "marker": MARKERS[place % len(MARKERS)] if num_points <= FEW_POINTS else "",
        "markersize": size,
        "linestyle": DASHES[place % len(DASHES)],
        "linewidth": width,
        "alpha": 0.85 if place else 1.0,
    }
