"""Average-direction sharpness (Andriushchenko et al. 2023; before them Neyshabur et al. 2017 and
Jiang et al. 2020).

    S = E_{z ~ N(0, I)} L(w + rho T z) - L(w),   T = 1, or diag(|w|) + eta I

estimated from pairs z, -z: each pair gives (L(w + rho T z) + L(w - rho T z)) / 2 - L(w), whose mean
is S. On a quadratic loss with Hessian H this is (rho^2 / 2) z^T T H T z, with the mean rho^2 tr(T H
T) / 2 and the variance rho^4 |T H T|_F^2 / 2.
"""

import statistics
from collections.abc import Sequence

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.average_sharpness import AverageSharpnessArgs
from phasegrid.metrics.network.losses import MovingLoss, policy_of, prepared
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.sam_sharpness.compute import scale_of

Row = dict[str, float | int | str | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure average-direction sharpness of one model; `args` are the fields of
    `AverageSharpnessArgs`.

    Unbiased, with its standard error, for the drawn examples. Null if the loss is not finite at a
    perturbation. Deterministic in `rng`.

    Raises:
        MetricError: if there is not one model, nothing is trainable, or the loss is not finite.
    """
    settings = AverageSharpnessArgs(**args)  # type: ignore[arg-type]  # the sweep reader checked
    module, inputs, labels = prepared(models, data, rng, settings, "average_sharpness")
    loss = MovingLoss(
        module, inputs, labels, data.scoring, "average_sharpness", settings.normalize_logits
    )
    scale = settings.rho * scale_of(loss.weights, settings.adaptive, settings.eta)
    rises = [_rise_of_pair(loss, scale, rng) for _ in range(settings.pairs)]
    mean = finite_or_none(statistics.fmean(rises))
    spread = statistics.stdev(rises) if mean is not None and len(rises) > 1 else None
    return {
        "average_sharpness": mean,
        "average_sharpness_stderr": None if spread is None else spread / len(rises) ** 0.5,
        "num_pairs": settings.pairs,
        "loss": loss.at_weights,
        "num_examples": len(labels),
        "batch_norm": policy_of(models[0], settings),
    }


def _rise_of_pair(loss: MovingLoss, scale: torch.Tensor, rng: torch.Generator) -> float:
    w = loss.weights
    z = torch.randn(len(w), generator=rng, dtype=w.dtype, device=rng.device).to(w.device)
    both = [loss.value(w + sign * scale * z, loss.all) for sign in (1, -1)]
    return sum(both) / 2 - loss.at_weights
