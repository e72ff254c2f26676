"""Collectors accumulate statistics of the weights during a training. No torch here: the planner
reads what they leave.

``swa``: the running mean of the weights (Izmailov et al. 2018, algorithm 1). ``swag``: also the
running mean of their squares and the last K deviations from the running mean (Maddox et al. 2019,
algorithm 1). SWAG's Gaussian over weights has the mean as its mean and, as its covariance, half of
diag(square - mean^2) plus half of the deviations' outer product over K - 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Collector:
    """A collector: ``take(state, weights, rank) -> state``, a function named by its module, adds
    weights to the state. The ``averaged`` network is always left as an artifact.

    `moments` says how many float32 numbers for each parameter the state holds with a `rank`, if it
    is left as well.
    """

    take: str
    moments: Callable[[int], int] | None = None


def moments_numbers(rank: int) -> int:
    """Return how many float32 numbers for each parameter SWAG's moments take: two means in float64
    and the deviations.
    """
    return 2 * 2 + rank


COLLECTORS: Mapping[str, Collector] = {
    "swa": Collector("phasegrid.train.taking:take_mean"),
    "swag": Collector("phasegrid.train.taking:take_moments", moments=moments_numbers),
}
