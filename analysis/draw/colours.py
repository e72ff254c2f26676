"""Map numbers to colours: limits, marks for values beyond them, and the ticks of a colour bar."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from phasegrid.analysis.tables.quantities import Quantity

ROBUST = (2.0, 98.0)
EQUAL = 1e-9
"""Limits that differ by no more than this share of themselves are one number."""
FEW = 25
"""With at most this many cells the limits are the extremes: a percentile of few numbers is an
extreme anyway.
"""


@dataclass(frozen=True, slots=True)
class ColourScale:
    """The limits of colours, whether the scale is logarithmic, which limits the data exceed, and
    the ticks of the bar.
    """

    low: float
    high: float
    log: bool
    extend: Literal["neither", "both", "min", "max"]
    ticks: tuple[float, ...]

    def norm(self) -> Normalize:
        """Return the map from numbers to [0, 1]."""
        return (LogNorm if self.log else Normalize)(self.low, self.high)


def colour_scale(table: pd.DataFrame, quantity: Quantity) -> ColourScale:
    """Return one colour scale for all values of a table, which its panels share.

    Limits are those that the quantity declares, otherwise the 2nd and 98th percentile (the extremes
    for at most 25 cells), symmetric about `centre`. Cells that are not trained have no colour and
    do not count for the limits.
    """
    values = table[~table["not_trained"]]["value"].dropna().to_numpy(dtype=float)
    positive = values[values > 0]
    log = quantity.scale == "log" and positive.size > 0 and positive.max() > 3 * positive.min()
    low, high = quantity.limits or _robust(positive if log else values)
    if quantity.centre is not None:
        reach = max(abs(low - quantity.centre), abs(high - quantity.centre))
        low, high = quantity.centre - reach, quantity.centre + reach
    if high - low <= EQUAL * max(abs(low), abs(high)):
        low, high = (low / 1.1, high * 1.1) if log else (low - 0.5, high + 0.5)
    return _scale(low, high, log, values, quantity.count)


def linear_scale(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], centre: float
) -> ColourScale:
    """Return a linear colour scale that is symmetric about `centre`, with robust limits like those
    of `colour_scale`.
    """
    low, high = _robust(values[~np.isnan(values)])
    reach = max(abs(low - centre), abs(high - centre)) or 0.5
    low, high = centre - reach, centre + reach
    return _scale(low, high, False, values)


def _scale(
    low: float,
    high: float,
    log: bool,
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    whole: bool = False,
) -> ColourScale:
    under, over = bool((values < low).any()), bool((values > high).any())
    return ColourScale(
        low,
        high,
        log,
        extend="both" if under and over else "min" if under else "max" if over else "neither",
        ticks=_log_ticks(low, high) if log else _linear_ticks(low, high, whole),
    )


def _robust(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    if values.size <= FEW:
        return float(values.min()), float(values.max())
    low, high = np.percentile(values, ROBUST)
    return float(low), float(high)


def _linear_ticks(low: float, high: float, whole: bool) -> tuple[float, ...]:
    """Return both limits and the round, or `whole`, numbers between them that are not close to a
    limit.
    """
    inner = [t for t in MaxNLocator(4, integer=whole).tick_values(low, high) if low < t < high]
    clear = 0.12 * (high - low)
    kept = [float(t) for t in inner if t - low > clear and high - t > clear]
    return (low, *kept, high)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1.0,) if high > 30 * low else (1.0, 2.0, 5.0)
    inner = [step * 10.0**decade for decade in decades for step in steps]
    clear = (high / low) ** 0.12
    return (low, *(t for t in inner if t > low * clear and t * clear < high), high)
