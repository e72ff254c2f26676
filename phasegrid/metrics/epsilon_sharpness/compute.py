"""The sharpness of Keskar et al. 2017 (metric 2.1).

    phi = 100 (max_{y in C} L(w + A y) - L(w)) / (1 + L(w)),
    C = { y in R^p : |y_i| <= epsilon (|(A^+ w)_i| + 1) }

with A the identity, or a random matrix (P, p), and A^+ its pseudo-inverse. The maximum is searched
by L-BFGS-B (Byrd et al. 1995) in float64, from y = 0 and from points drawn in the box. On a
separable quadratic loss the maximum is at the corner y_i = sign(g_i) epsilon (|w_i| + 1).

Letters: P trainable parameters, p dimension of the searched space.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.epsilon_sharpness import EpsilonSharpnessArgs
from phasegrid.metrics.network.losses import MovingLoss, policy_of, prepared

Row = dict[str, float | int | str | None]
Vector = NDArray[np.float64]
ValueAndGradient = Callable[[Vector], tuple[float, Vector]]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure Keskar's sharpness of one model; `args` are the fields of `EpsilonSharpnessArgs`.

    A lower bound of the maximum, for the drawn examples. Deterministic in `rng`.

    Raises:
        MetricError: if there is not one model, nothing is trainable, the loss is not finite, or the
            subspace has more dimensions than there are parameters.
    """
    settings = EpsilonSharpnessArgs(**args)  # type: ignore[arg-type]  # the sweep reader checked
    module, inputs, labels = prepared(models, data, rng, settings, "epsilon_sharpness")
    loss = MovingLoss(module, inputs, labels, data.scoring, "epsilon_sharpness")
    A = _subspace(loss.weights, settings.dimension, rng)
    half_width = settings.epsilon * (np.abs(_coordinates(loss.weights, A)) + 1)
    spent = 0

    def negative(y: Vector) -> tuple[float, Vector]:
        nonlocal spent
        spent += 1
        point = torch.from_numpy(y).to(loss.weights.device)
        moved = loss.weights + (point if A is None else A @ point).to(loss.weights)
        value, gradient = loss.gradient(moved, loss.all)
        slope = gradient.double() if A is None else A.t() @ gradient.double()
        return -value, -slope.cpu().numpy()

    starts = _starts(half_width, settings.starts, rng)
    highest = max(highest_in_box(negative, half_width, y, settings.iterations) for y in starts)
    rise = max(highest, loss.at_weights) - loss.at_weights
    return {
        "epsilon_sharpness": 100 * rise / (1 + loss.at_weights),
        "num_gradients": spent,
        "loss": loss.at_weights,
        "num_examples": len(labels),
        "batch_norm": policy_of(models[0], settings),
    }


def highest_in_box(
    negative: ValueAndGradient, half_width: Vector, start: Vector, iterations: int
) -> float:
    """Return the highest value that L-BFGS-B finds in the box |y| <= `half_width` (p,) from `start`
    in so many iterations; `negative` gives minus the value and minus its gradient.
    """
    bounds = np.stack([-half_width, half_width], axis=1)
    found = minimize(
        negative,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
    )
    return -float(found.fun)


def _subspace(weights: Tensor, dimension: int | None, rng: torch.Generator) -> Tensor | None:
    """Draw A (P, p) in float64; None is the identity."""
    if dimension is None:
        return None
    if dimension > len(weights):
        raise MetricError(
            f"epsilon_sharpness: found dimension: {dimension}, but the network has {len(weights)}"
            " trainable parameters; allowed: at most as many, or null"
        )
    drawn = torch.randn(
        dimension, len(weights), generator=rng, dtype=torch.float64, device=rng.device
    )
    return drawn.t().to(weights.device)


def _coordinates(weights: Tensor, A: Tensor | None) -> Vector:
    """Return A^+ w (p,)."""
    w = weights.double()
    found = w if A is None else torch.linalg.solve(A.t() @ A, A.t() @ w)
    coordinates: Vector = found.cpu().numpy()
    return coordinates


def _starts(half_width: Vector, num: int, rng: torch.Generator) -> list[Vector]:
    size = len(half_width)
    drawn = [
        torch.rand(size, generator=rng, dtype=torch.float64, device=rng.device).cpu().numpy()
        for _ in range(num - 1)
    ]
    return [np.zeros(size), *(half_width * (2 * u - 1) for u in drawn)]
