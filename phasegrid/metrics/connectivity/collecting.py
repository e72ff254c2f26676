"""Collect SWAG's moments of the bends of a curve in training (`phasegrid.train.taking`).

Benton et al. 2021, section 4.1: the loss of a curve in its bend is taken for the likelihood of the
bend, so iterates of the bend at the end of its training give a Gaussian over bends.

Letters: n bends, P parameters of a network, K deviations.
"""

from collections.abc import Mapping

from torch import Tensor

from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.train.taking import State, take_moments

ARTIFACT = "curve_moments"
"""It holds the trained ``bends`` (n, P) and the moments of all of them in a row, of n P numbers."""


class BendMoments:
    """The moments of the bends of one curve, taken after each epoch from ``swag_from_epoch`` on;
    nothing without it.
    """

    def __init__(self, settings: ConnectivityArgs) -> None:
        self._from, self._rank = settings.swag_from_epoch, settings.swag_rank
        self._state: State = {}

    def take(self, epoch: int, bends: Tensor) -> None:
        """Take the bends (n, P) after an epoch, counted from 1."""
        if self._from is not None and epoch >= self._from:
            self._state = take_moments(self._state, bends.flatten(), self._rank)

    def left(self, bends: Tensor) -> dict[str, Mapping[str, Tensor]]:
        """Return the artifact with the moments, and the trained `bends`; nothing if none were
        taken.
        """
        return {ARTIFACT: {**self._state, "bends": bends}} if self._state else {}
