"""Say where the vertices of a complex and the measured points on it are, with their losses.

Letters: V vertices, S simplexes, N points.
"""

from collections.abc import Sequence

from torch import Tensor

from phasegrid.metrics.network.points import Numbers, PointEvaluation, numbers_at
from phasegrid.metrics.simplex.complexes import Complex
from phasegrid.metrics.simplex.projection import principal_axes

LOSSES = ("train_loss", "test_loss")


def placed_columns(
    complex_: Complex, coefficients: Tensor, measured: Sequence[PointEvaluation]
) -> dict[str, object]:
    """Return the columns about the places of the vertices and of points on the complex with the
    weights `coefficients` (N, V), on the principal axes of the vertices, and their losses, from
    what was `measured` at the points and then at the vertices.
    """
    num, found = len(coefficients), numbers_at(measured)
    places, shares = principal_axes(complex_.vertices)
    columns: dict[str, object] = {"explained_percent": (100 * shares).tolist()}
    weights = coefficients.double().cpu()
    for axis, vertices, points in zip("xyz", places.t(), (weights @ places).t(), strict=False):
        columns |= {f"vertex_{axis}": vertices.tolist(), f"sample_{axis}": points.tolist()}
    for name in LOSSES:
        columns[f"sample_{name}"], columns[f"vertex_{name}"] = found[name][:num], found[name][num:]
        columns[f"simplex_{name}"] = _by_simplex(complex_, weights, found[name][:num])
    return columns


def _by_simplex(complex_: Complex, weights: Tensor, losses: Numbers) -> Numbers:
    """Return the mean loss (S,) of the points in each simplex; null where there is none, or one of
    them is missing.
    """
    means: Numbers = []
    for simplex in complex_.simplexes:
        others = [v for v in range(weights.shape[1]) if v not in simplex]
        inside = (weights[:, others] == 0).all(dim=1).tolist()
        own = [loss for loss, is_own in zip(losses, inside, strict=True) if is_own]
        present = [loss for loss in own if loss is not None]
        means.append(sum(present) / len(own) if own and len(present) == len(own) else None)
    return means
