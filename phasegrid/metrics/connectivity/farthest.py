"""Where a curve is farthest from the mean of its ends: the t* of mode connectivity. Needs no
torch.
"""

from collections.abc import Sequence

SAME = 1e-9
"""Share of the largest value below which two distances are the same: far above the rounding of an
error in percent, far below one example of the largest training set.
"""


def farthest_from_ends(values: Sequence[float]) -> tuple[float, int]:
    """Return mean of the ends minus the value farthest from it, and where that is.

    Both ends are equally far from their mean: (e(0) + e(1))/2 - e(0) = -((e(0) + e(1))/2 - e(1)).
    Where they are the farthest (a curve that runs between unequal ends and never beyond them) the
    sign is that of the first end by agreement. An inner point as far as the ends comes before them,
    and of several the first. Equal is what differs by `SAME` at most, so that rounding decides
    nothing.

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
