"""Put ticks on axes of cells and on colour bars: choose the labels that have room, slant words that
have none, and write numbers.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis, YAxis
from matplotlib.colorbar import Colorbar
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
)

from phasegrid.analysis.draw.scales import GridAxis, thinned

EXACT = 17
"""Significant digits that tell any two numbers apart."""
MOST_SLANTED = 12
"""Slanted labels lie close, but do not touch, up to about this many on an axis of two inches."""


def tick_room(ax: Axes, scale: GridAxis, *, upright: bool = False) -> list[float]:
    """Return the share of an axis that each tick label needs, from the present size of the Axes."""
    box, (wide, high) = ax.get_position(), inches(ax)
    letter = rcParams["font.size"] * 0.875 / 72  # inches; tick labels are 7/8 of the text
    if upright:
        return [1.15 * letter / (high * box.height)] * len(scale.labels)
    return [(_letters(text) + 0.5) * letter / (wide * box.width) for text in scale.labels]


def _letters(text: str) -> float:
    """Return the width of a label in heights of its letters: a dot is half as wide as a digit."""
    return 0.64 * len(text) - 0.32 * text.count(".")


def set_ticks(axis: XAxis | YAxis, scale: GridAxis, room: Sequence[float]) -> None:
    """Put a major tick with a label at the values that have room, and a minor tick at the others.
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


def write_log_ticks(axis: Axis) -> None:
    """Put labels at 1, 2 and 5 times the powers of ten of a log axis (at the powers alone where
    there are many), written by `log_text`.
    """
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: log_text(value)))
    axis.set_minor_formatter(NullFormatter())


def log_text(number: float) -> str:
    """Write a number of a log axis as a decimal, or as a power of ten where that is long.

    >>> log_text(3.0), log_text(0.002), log_text(2e-5), log_text(1e6)
    ('3', '0.002', '$2\\\\times10^{-5}$', '$10^{6}$')
    """
    if 1e-3 <= number < 1e4:
        return f"{number:g}"
    digits, power = f"{number:.3e}".split("e")
    factor = float(digits)
    return ("$" if factor == 1 else f"${factor:g}\\times") + f"10^{{{int(power)}}}$"


def write_bar_ticks(bar: Colorbar, ticks: Sequence[float], digits: int = 3) -> None:
    """Put these ticks on a colour bar, written by `tick_texts`, and no others."""
    bar.set_ticks(list(ticks), labels=tick_texts(ticks, digits))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.minorticks_off()


def tick_texts(ticks: Sequence[float], digits: int = 3) -> list[str]:
    """Write ascending numbers with so many significant digits, and more for those that would
    otherwise be wrong by more than a tenth of the way to the next: no two texts are equal.

    >>> tick_texts([0.0655, 1.0, 12.5]), tick_texts([1.0, 1.00025, 1.0005])
    (['0.0655', '1', '12.5'], ['1', '1.00025', '1.0005'])
    """
    gaps = [abs(b - a) for a, b in pairwise(ticks)]
    nearest = [min(pair) for pair in pairwise([math.inf, *gaps, math.inf])]
    return [_written(tick, gap, digits) for tick, gap in zip(ticks, nearest, strict=True)]


def _written(number: float, gap: float, digits: int) -> str:
    """Write a number to a tenth of the `gap`, without trailing zeros and with a true minus sign."""
    texts = (f"{number:.{count}g}" for count in range(digits, EXACT + 1))
    text = next((text for text in texts if abs(float(text) - number) <= gap / 10), f"{number!r}")
    return ("0" if float(text) == 0 else text).replace("-", "−")


def inches(ax: Axes) -> tuple[float, float]:
    """Return the width and the height of the figure of an Axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure.get_figwidth(), figure.get_figheight()
