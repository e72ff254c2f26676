"""Numbers of a whole curve from those of its points: lowest, highest, means along it, and its ends.

Garipov et al. 2018, table 2. With m_i at the points t_i and the distances d_i between them in
weight space, the mean along the curve, uniform in length (their eq. 1), is by the trapezoid rule

    Int = sum_i (m_i + m_{i+1}) d_i / 2  /  sum_i d_i,

and the mean uniform in t (their eq. 3, which training minimises) is the same with equal d_i. The
gap is the highest number on the curve minus that of the worse end (their figure 3), so it is at
least 0.
"""

from collections.abc import Sequence

from phasegrid.metrics.network.points import Numbers

KINDS = ("min", "max", "int", "mean", "min_end", "max_end", "gap")


def summary(name: str, values: Numbers, distances: Sequence[float]) -> dict[str, float | None]:
    """Return the columns that summarise a list of numbers at equally spaced t; they are null if a
    number is missing. `distances` are those between consecutive points.

    >>> summary("train_loss", [1.0, 3.0, 2.0], [1.0, 1.0])["int_train_loss"]
    2.25
    >>> summary("train_loss", [1.0, 3.0, 2.0], [1.0, 1.0])["gap_train_loss"]
    1.0
    """
    names = [f"{kind}_{name}" for kind in KINDS]
    present = [value for value in values if value is not None]
    if len(present) != len(values):
        return dict.fromkeys(names)
    low, high, ends = min(present), max(present), (present[0], present[-1])
    means = [mean_along(present, parts) for parts in (distances, [1.0] * len(distances))]
    found = (low, high, *means, min(ends), max(ends), high - max(ends))
    return dict(zip(names, found, strict=True))


def regularised(losses: Numbers, squared_norms: Numbers, weight_decay: float) -> Numbers:
    """Return the loss + weight_decay/2 |gamma|^2 at every point, which curve training minimises;
    null where either is.
    """
    return [
        None if loss is None or square is None else loss + 0.5 * weight_decay * square
        for loss, square in zip(losses, squared_norms, strict=True)
    ]


def mean_along(values: Sequence[float], parts: Sequence[float]) -> float | None:
    """Return the mean, by the trapezoid rule, of values at points with these distances between
    them; None if they are all at one place.
    """
    total = sum(parts)
    if not 0 < total < float("inf"):
        return None
    pairs = zip(values, values[1:], parts, strict=False)
    return sum((a + b) * part / 2 for a, b, part in pairs) / total
