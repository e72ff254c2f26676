"""Fit a power law to the largest of some positive numbers (Clauset, Shalizi and Newman 2009).

    p(x) = ((alpha - 1) / x_min) (x / x_min)^-alpha,   x >= x_min
    alpha = 1 + n / sum_i ln(x_i / x_min)                                       (equation 3.1)
    D = max_{x >= x_min} |S(x) - P(x)|                                          (equation 3.9)

x_min is the number for which D, the Kolmogorov-Smirnov distance of the n numbers of the tail from
their fit, is smallest. Letters: N numbers, n in the tail.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """A power law; `alpha_stderr` is (alpha - 1) / sqrt(n) (equation 3.2), given x_min."""

    alpha: float
    alpha_stderr: float
    x_min: float
    ks_distance: float
    num_tail: int


def fit_power_law(numbers: Vector, min_tail: int) -> Fit | None:
    """Fit positive `numbers` (N,), of which at least `min_tail` are in the tail; None if there are
    fewer, or all that could be in it are equal.
    """
    x = np.sort(numbers)
    best: Fit | None = None
    starts = [i for i in range(len(x) - min_tail + 1) if i == 0 or x[i] > x[i - 1]]
    for start in starts:
        found = _fit_tail(x[start:])
        if found is not None and (best is None or found.ks_distance < best.ks_distance):
            best = found
    return best


def p_value(
    numbers: Vector, fit: Fit, min_tail: int, samples: int, rng: np.random.Generator
) -> float:
    """Return the share of synthetic samples whose own fit is as far from them or farther (section
    4.1). A sample has N numbers: each is drawn from the power law with probability n / N, and
    otherwise from the numbers below x_min.
    """
    below = numbers[numbers < fit.x_min]
    farther = 0
    for _ in range(samples):
        num_tail = rng.binomial(len(numbers), fit.num_tail / len(numbers))
        tail = draw_power_law(fit.alpha, fit.x_min, num_tail, rng)
        rest = rng.choice(below, len(numbers) - num_tail) if len(below) else below
        found = fit_power_law(np.concatenate([rest, tail]), min_tail)
        farther += found is None or found.ks_distance >= fit.ks_distance
    return farther / samples


def draw_power_law(alpha: float, x_min: float, num: int, rng: np.random.Generator) -> Vector:
    """Draw `num` numbers from a power law by its inverse distribution function."""
    drawn: Vector = x_min * (1 - rng.random(num)) ** (-1 / (alpha - 1))
    return drawn


def _fit_tail(tail: Vector) -> Fit | None:
    """Fit ascending numbers (n,), the first of which is x_min; None if all are equal."""
    n = len(tail)
    logs = np.log(tail / tail[0])
    if logs[-1] == 0:
        return None
    alpha = 1 + n / float(logs.sum())
    expected = 1 - np.exp((1 - alpha) * logs)
    ranks = np.arange(n + 1) / n
    distance = max(np.abs(ranks[1:] - expected).max(), np.abs(expected - ranks[:-1]).max())
    return Fit(alpha, (alpha - 1) / n**0.5, float(tail[0]), float(distance), n)
