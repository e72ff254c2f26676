"""Estimate the dimension of the low-loss space that a complex fills (Benton et al. 2021, section
4.3): the number of connectors beyond which its volume collapses.

The volume itself cannot tell, as each dimension has its own unit. The height of a new connector
over the span of the vertices before it can: V_k = V_(k-1) h_k / k. Letters: J connectors.
"""

import math
from collections.abc import Sequence

from phasegrid.metrics.simplex.complexes import Complex
from phasegrid.metrics.simplex.volume import (
    kinds_of,
    log_volumes_of,
    total_log_volume,
)
from phasegrid.metrics.simplex.wiring import around


def log_height(complex_: Complex, connector: int) -> float:
    """Return the log of the mean height of vertex `connector` over the faces opposite to it, in
    the complex in which it was trained; with equal dimensions this is log (k V_k / V_(k-1)), the
    mean being weighted by the volumes of the faces.

    -inf if it is flat, nan if the faces are.
    """
    star = around(complex_.simplexes, connector)
    faces = tuple(tuple(vertex for vertex in one if vertex != connector) for one in star)
    dimensions = [len(face) for face in faces]
    volumes = [log_volumes_of(Complex(complex_.vertices, which)) for which in (star, faces)]
    kinds = kinds_of(dimensions, volumes[0].device)
    whole, opposite = (total_log_volume(each, kinds) for each in volumes)
    return whole - opposite + sum(math.log(dimension) for dimension in dimensions) / len(faces)


def num_sound(
    log_heights: Sequence[float | None],
    accuracies: Sequence[float | None],
    collapse: float,
    least_accuracy: float,
) -> int:
    """Return the largest number of connectors k such that each of the first k has at least
    `collapse` times the height of the first one, and the complexes of the first 1, ..., k
    connectors have no sampled accuracy below `least_accuracy`.

    >>> num_sound([0.0, -0.5, -9.0], [99.0, 98.0, 98.0], 0.05, 95.0)
    2
    """
    first = log_heights[0]
    for num, (height, accuracy) in enumerate(zip(log_heights, accuracies, strict=True)):
        if first is None or height is None or height < first + math.log(collapse):
            return num
        if accuracy is None or accuracy < least_accuracy:
            return num
    return len(log_heights)
