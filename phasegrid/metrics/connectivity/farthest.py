"""Find where a curve is farthest from the mean of its ends: the t* of mode connectivity. No torch
here.
"""

from collections.abc import Sequence

SAME = 1e-9
"""Two distances count as equal if they differ by at most this share of the largest value: far above
the rounding of an error in percent, far below one example of the largest training set.
"""


def farthest_from_ends(values: Sequence[float]) -> tuple[float, int]:
    """Return the mean of the ends minus the value that is farthest from it, and the index of that
    value.

    Both ends are equally far from their mean: (e(0) + e(1))/2 - e(0) = -((e(0) + e(1))/2 - e(1)).
    If they are the farthest points (a curve that stays between the values of unequal ends), the
    first end gives the sign, by convention. An inner point that is as far as the ends has priority
    over them; of several, the first has. Distances count as equal up to `SAME`, so that rounding
    decides nothing.

    >>> farthest_from_ends([10.0, 30.0, 12.0])
    (-19.0, 1)
    >>> farthest_from_ends([10.0, 11.0, 14.0])
    (2.0, 0)
    """
    ends = (values[0] + values[-1]) / 2
    distances = [abs(ends - value) for value in values]
    reach = max(distances) - SAME * max(abs(value) for value in values)
    inner_first = [*range(1, len(values) - 1), 0]
    index = next(i for i in inner_first if distances[i] >= reach)
    return ends - values[index], index
