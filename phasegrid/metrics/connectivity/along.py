"""Numbers of a whole curve from those of its points: lowest, highest, and means along it.

Garipov et al. 2018, table 2. With m_i at the points t_i and the distances d_i between them in
weight space, the mean along the curve, uniform in length (their eq. 1), is by the trapezoid rule

    Int = sum_i (m_i + m_{i+1}) d_i / 2  /  sum_i d_i,

and the mean uniform in t (their eq. 3, which training minimises) is the same with equal d_i.
"""

from collections.abc import Sequence

from phasegrid.metrics.network.points import Numbers


def summary(name: str, values: Numbers, distances: Sequence[float]) -> dict[str, float | None]:
    """Return the columns that summarise a list of numbers at equally spaced t; they are null if a
    number is missing. `distances` are those between consecutive points.

    >>> summary("train_loss", [1.0, 3.0, 1.0], [1.0, 1.0])["int_train_loss"]
    2.0
    """
    names = [f"{what}_{name}" for what in ("min", "max", "int", "mean")]
    present = [value for value in values if value is not None]
    if len(present) != len(values):
        return dict.fromkeys(names)
    equal = [1.0] * len(distances)
    means = [_mean(present, parts) for parts in (distances, equal)]
    return dict(zip(names, (min(present), max(present), *means), strict=True))


def _mean(values: Sequence[float], parts: Sequence[float]) -> float | None:
    total = sum(parts)
    if not 0 < total < float("inf"):
        return None
    pairs = zip(values, values[1:], parts, strict=False)
    return sum((a + b) * part / 2 for a, b, part in pairs) / total
