"""Name the shape of a loss along a line (Xu et al. 2024, Fig. 1 and appendix A.3).

Stationary points that noise makes do not count: of two neighbouring extrema both are dropped, the
least certain pair first, while their difference is smaller than `significance` standard errors. The
standard error is that of the mean difference of the losses of single examples at both points, so it
says whether the wiggle would be there with other examples.

Letters: T points, N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

ROUNDING = 1e-6
"""Differences below this share of the largest loss are rounding of float32 networks."""


@dataclass(frozen=True, slots=True)
class Extremum:
    """A point of a line that is above (`is_peak`) or below all points up to the next extremum."""

    place: int
    is_peak: bool


def count_stationary(values: Sequence[float | None]) -> int | None:
    """Count the inner points that lie above or below both neighbours: (y_t - y_{t+1})(y_t -
    y_{t-1}) > 0 (Xu et al. 2024, A.3).

    None if a value is missing.

    >>> count_stationary([2.0, 1.0, 3.0, 0.0])
    2
    """
    present = [value for value in values if value is not None]
    if len(present) < len(values):
        return None
    triples = zip(present, present[1:], present[2:], strict=False)
    return sum((y - after) * (y - before) > 0 for before, y, after in triples)


def differs(losses: Tensor, one: int, other: int, significance: float) -> float:
    """Return how many times the mean losses at two points of (T, N) differ by more than noise: at
    least 1 if they do.
    """
    apart = losses[one] - losses[other]
    spread = float(apart.std()) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
    noise = max(significance * spread, ROUNDING * float(losses.mean(dim=1).max()))
    return abs(float(apart.mean())) / noise if noise else float("inf")


def extrema_of(losses: Tensor, significance: float) -> list[Extremum]:
    """Return the extrema of the mean of `losses` (T, N) along a line that stand out from noise, in
    order; ends are none.
    """
    kept = _turns(losses.mean(dim=1).tolist())
    while len(kept) > 2:
        certain = [differs(losses, one, other, significance) for one, other in pairwise(kept)]
        least = min(range(len(certain)), key=certain.__getitem__)
        if certain[least] >= 1:
            break
        kept = _without(kept, least)
    means = losses.mean(dim=1)
    inner = zip(kept, kept[1:], kept[2:], strict=False)
    return [Extremum(place, bool(means[place] > means[before])) for before, place, _ in inner]


def shape_of(losses: Tensor, axis: Sequence[float], significance: float) -> str:
    """Name the shape of `losses` (T, N) of single examples along a line; the perturbed network is
    at 0 of `axis`.

    - ``v-basin``: one minimum, with the network in it. ``v-side``: the network lies on a slope, of
      one minimum or of none on the line.
    - ``w-basin``: two minima, with the network in one of them, or at least in the lower half of the
      slope from the peak to it. ``w-peak``: two minima, and the network on the peak between them.
    - ``vvv-basin``: three minima. ``other``: all else.
    """
    extrema = extrema_of(losses, significance)
    centre = min(range(len(axis)), key=lambda place: abs(axis[place]))
    signs = "".join("^" if one.is_peak else "v" for one in extrema)
    if signs == "":
        return "v-side"
    if signs == "v":
        place = extrema[0].place
        there = abs(place - centre) <= 1 or differs(losses, place, centre, significance) < 1
        return "v-basin" if there else "v-side"
    if signs == "v^v":
        return "w-peak" if _is_on_peak(losses.mean(dim=1), extrema, centre) else "w-basin"
    return "vvv-basin" if signs == "v^v^v" else "other"


def _is_on_peak(means: Tensor, extrema: Sequence[Extremum], centre: int) -> bool:
    """Say whether a point is between two minima and in the upper half of the peak there."""
    left, peak, right = (one.place for one in extrema)
    side = left if centre <= peak else right
    inside = left < centre < right
    return inside and bool(means[centre] > (means[peak] + means[side]) / 2)


def falls_to_centre(losses: Tensor, axis: Sequence[float], significance: float) -> bool | None:
    """Say whether the mean of `losses` (T, N) never rises beyond noise on the way from either end
    to 0 of `axis`; None if 0 is not between the ends.
    """
    if not axis[0] <= 0 <= axis[-1]:
        return None
    centre = min(range(len(axis)), key=lambda place: abs(axis[place]))
    for side in (losses[: centre + 1], losses[centre:].flip(0)):
        if len(side) > 1 and extrema_of(side, significance):
            return False
        if len(side) > 1 and side[-1].mean() > side[0].mean():
            return False
    return True


def _turns(means: Sequence[float]) -> list[int]:
    """Return the ends of a line and the inner points where it turns; of a flat part, the first."""
    places = [0]
    rises: bool | None = None
    for place in range(1, len(means)):
        if means[place] == means[place - 1]:
            continue
        now = means[place] > means[place - 1]
        if rises is not None and now != rises:
            places.append(_first_of_flat(means, place - 1))
        rises = now
    return [*places, len(means) - 1]


def _first_of_flat(means: Sequence[float], place: int) -> int:
    while place > 0 and means[place - 1] == means[place]:
        place -= 1
    return place


def _without(kept: list[int], least: int) -> list[int]:
    """Drop the extrema of the pair that begins at `least`; an end stays."""
    pair = {least, least + 1} - {0, len(kept) - 1}
    return [place for index, place in enumerate(kept) if index not in pair]
