"""Ticks of an axis of cells: which labels have room, and how words that have none are shown."""

from collections.abc import Sequence

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter

from phasegrid.analysis.draw.scales import GridAxis, thinned

MOST_SLANTED = 12
"""Slanted labels lie close, but do not touch, up to about this many on an axis of two inches."""


def tick_room(ax: Axes, scale: GridAxis, *, upright: bool = False) -> list[float]:
    """Return the share of an axis that each tick label needs, from the size of the Axes as laid out
    so far.
    """
    box, (wide, high) = ax.get_position(), inches(ax)
    letter = rcParams["font.size"] * 0.875 / 72  # inches; tick labels are 7/8 of the text
    if upright:
        return [1.15 * letter / (high * box.height)] * len(scale.labels)
    return [(_letters(text) + 0.5) * letter / (wide * box.width) for text in scale.labels]


def _letters(text: str) -> float:
    """Return the width of a label in heights of its letters: a dot is half as wide as a digit."""
    return 0.64 * len(text) - 0.32 * text.count(".")


def set_ticks(axis: XAxis | YAxis, scale: GridAxis, room: Sequence[float]) -> None:
    """Put a major tick with its label at the values that have room, a minor one at the others.
    Words that do not all fit below an axis are all shown, at a slant: nobody can guess them.
    """
    kept = thinned(scale, room)
    words = scale.spacing == "ordinal" and not any(map(_is_number, scale.labels))
    slanted = words and isinstance(axis, XAxis) and len(kept) < len(scale.labels) <= MOST_SLANTED
    if slanted:
        kept = list(range(len(scale.labels)))
    axis.set_major_locator(FixedLocator([scale.centres[i] for i in kept]))
    axis.set_major_formatter(FixedFormatter([scale.labels[i] for i in kept]))
    axis.set_minor_locator(FixedLocator(list(scale.centres)))
    axis.set_minor_formatter(NullFormatter())
    if slanted:
        for text in axis.get_ticklabels():
            text.set(rotation=20, ha="right", rotation_mode="anchor")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def inches(ax: Axes) -> tuple[float, float]:
    """Return the width and the height of the figure of an Axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure.get_figwidth(), figure.get_figheight()
