"""SAM sharpness (Foret et al. 2021), adaptive (Kwon et al. 2021) and of batches (m-sharpness).

    S = (1/B) sum_b [ max_{|T^-1 e|_p <= rho} L_b(w + e) - L_b(w) ],   p = 2 or infinity

with T = 1, or diag(|w|) + eta I, and L_b the mean loss of batch b (Foret et al., equation 1 and
section 4.1; Kwon et al.; Andriushchenko et al. 2023). To first order the maximum lies at

    e = rho T^2 g / |T g|_2  (p = 2),   e = rho T sign(g)  (p = infinity),   g = grad L_b(w)

(Foret et al., equation 2; Kwon et al., equation 6). On a quadratic loss (1/2) w^T H w and for T =
1, p = 2, this gives rho |H w| + (rho^2 / 2) u^T H u with u = H w / |H w|.

Letters: P trainable parameters, B batches.
"""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.network.losses import MovingLoss, policy_of, prepared
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.sam_sharpness import SamSharpnessArgs

Row = dict[str, float | int | str | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure SAM sharpness of one model; `args` are the fields of `SamSharpnessArgs`.

    Exact to rounding for the drawn examples with one step; with more, a lower bound of the maximum.
    Null if the loss is not finite at a worst point.

    Raises:
        MetricError: if there is not one model, nothing is trainable, or the loss is not finite.
    """
    settings = SamSharpnessArgs(**args)  # type: ignore[arg-type]  # the sweep reader checked them
    module, inputs, labels = prepared(models, data, rng, settings, "sam_sharpness")
    loss = MovingLoss(
        module, inputs, labels, data.scoring, "sam_sharpness", settings.normalize_logits
    )
    scale = scale_of(loss.weights, settings.adaptive, settings.eta)
    batches = loss.batches(settings.m)
    rises = [worst_rise(loss, some, scale, settings) for some in batches]
    shares = [(some.stop - some.start) / len(labels) for some in batches]
    several = len(rises) > 1 and all(map(math.isfinite, rises))
    return {
        "sam_sharpness": finite_or_none(math.fsum(map(math.prod, zip(shares, rises, strict=True)))),
        "sam_sharpness_stderr": statistics.stdev(rises) / len(rises) ** 0.5 if several else None,
        "num_batches": len(batches),
        "loss": loss.at_weights,
        "num_examples": len(labels),
        "batch_norm": policy_of(models[0], settings),
    }


def scale_of(weights: Tensor, adaptive: bool, eta: float) -> Tensor:
    """Return the diagonal of T (P,)."""
    return weights.abs() + eta if adaptive else torch.ones_like(weights)


def worst_rise(loss: MovingLoss, some: slice, scale: Tensor, settings: SamSharpnessArgs) -> float:
    """Return how much the loss of `some` examples rises, at most, at the points of the ascent."""
    at, highest = torch.zeros_like(scale), -math.inf
    start, gradient = loss.gradient(loss.weights, some)
    for step in range(settings.steps):
        at = _project(at + settings.rho * _ascent(gradient, scale, settings.norm), scale, settings)
        if step + 1 == settings.steps:
            return max(highest, loss.value(loss.weights + at, some)) - start
        reached, gradient = loss.gradient(loss.weights + at, some)
        highest = max(highest, reached)
    raise AssertionError("there is a step")


def _ascent(gradient: Tensor, scale: Tensor, norm: str) -> Tensor:
    """Return the e with |T^-1 e| = 1 along which the loss rises the most; 0 for a gradient of 0."""
    if norm == "linf":
        return scale * gradient.sign()
    scaled = scale * gradient
    size = torch.linalg.vector_norm(scaled)
    return torch.where(size > 0, scale * scaled / size, 0.0)


def _project(at: Tensor, scale: Tensor, settings: SamSharpnessArgs) -> Tensor:
    """Return the point of the ball |T^-1 e| <= rho that a step beyond it is drawn back to."""
    if settings.norm == "linf":
        return at.clamp(-settings.rho * scale, settings.rho * scale)
    size = torch.linalg.vector_norm(torch.where(scale > 0, at / scale, 0.0))
    drawn_back: Tensor = at * (settings.rho / size).clamp(max=1.0)
    return drawn_back
