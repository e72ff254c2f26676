"""Measure curvature on batches, in units of the learning rate.

With g_b and H_b the gradient and the Hessian of the loss of batch b, L the mean over batches and g,
H its derivatives:

    lambda_max of H (Cohen et al. 2021)
    critical sharpness 2 / eta_c, eta_c the smallest rate > 0 with L(w - eta_c g) >= L(w)
        (Kalra et al. 2026); on a quadratic it is g . H g / |g|^2
    batch sharpness mean_b(g_b . H_b g_b) / mean_b(|g_b|^2) (Andreyev and Beneventano 2024)
    gradient noise scale tr(Sigma) / |G|^2 (McCandlish et al. 2018)

Letters: B batches, P trainable parameters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.lanczos import Spectrum, lanczos
from phasegrid.metrics.hessian.operator import HessianOperator, with_right_products
from phasegrid.metrics.network.losses import MovingLoss, policy_of, prepared
from phasegrid.metrics.stability import StabilityArgs
from phasegrid.models.network_state import copy_network

Row = dict[str, float | int | str | None]

MOST_DOUBLINGS = 60
ROUNDING = 1e-6
"""Changes of the loss below this share of it are rounding of float32 networks."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The spectrum of the Hessian, the gradients (B, P), in float64, and the curvatures g_b . H_b
    g_b (B,), with the way in which second derivatives were taken.
    """

    spectrum: Spectrum
    gradients: Tensor
    curvatures: Tensor
    hvp_method: str


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    moments: Sequence[tuple[float, float]],
    **args: object,
) -> Row:
    """Measure curvature at one model; `moments` are its epochs done and learning rate, `args` the
    fields of `StabilityArgs`. Deterministic in `rng` and the model, which is not changed.

    Raises:
        MetricError: if there is not one model, nothing is trainable, or the loss is not finite.
    """
    settings = StabilityArgs(**args)  # type: ignore[arg-type]  # the sweep reader checked them
    module, inputs, labels = prepared(models, data, rng, settings, "stability")
    size = min(settings.batch_size, len(labels))
    places = [slice(i, i + size) for i in range(0, len(labels) - size + 1, size)]
    found = with_right_products(
        copy_network(module),
        inputs[places[0]],
        labels[places[0]],
        rng,
        lambda H: _differentiate(H, module, inputs, labels, places, data, settings, rng),
        data.scoring,
    )
    used = places[-1].stop
    loss = MovingLoss(module, inputs[:used], labels[:used], data.scoring, "stability")
    mean = found.gradients.mean(dim=0)
    (epochs, lr), step = moments[0], mean.to(loss.weights)

    def value(rate: float) -> float:
        at = torch.sub(loss.weights, step, alpha=rate)
        return math.fsum(loss.value(at, some) for some in places) / len(places)

    critical, num_passes = critical_rate(value, lr, settings.search_tolerance)
    sharp, sharp_stderr = batch_sharpness(found.gradients, found.curvatures)
    noise, noise_stderr = noise_scale(found.gradients, size)
    top = float(found.spectrum.ritz_values[-1])
    return {
        "lambda_max_lr": top * lr,
        "critical_sharpness_lr": None if critical is None else 2 / critical * lr,
        "batch_sharpness_lr": None if sharp is None else sharp * lr,
        "gradient_noise_scale": noise,
        "gradient_noise_scale_stderr": noise_stderr,
        "after_epochs": epochs,
        "lr": lr,
        "lambda_max": top,
        "lambda_max_residual": float(found.spectrum.residuals[-1]),
        "critical_lr": critical,
        "critical_sharpness": None if critical is None else 2 / critical,
        "critical_passes": num_passes,
        "batch_sharpness": sharp,
        "batch_sharpness_stderr": sharp_stderr,
        "gradient_norm": float(torch.linalg.vector_norm(mean)),
        "num_batches": len(places),
        "num_examples": used,
        "loss": value(0.0),
        "hvp_method": found.hvp_method,
        "batch_norm": policy_of(models[0], settings),
    }


def critical_rate(
    value: Callable[[float], float], start: float, tolerance: float
) -> tuple[float | None, int]:
    """Return the smallest learning rate at which `value`, the loss after a step, is not below that
    at 0, to a relative `tolerance`, and how many values the search took; None if no rate from
    `start` upwards or downwards changes the loss by more than rounding.

    The first rate above which doubling finds none below is bisected, on a log scale: if the loss
    rises and falls again within a factor of two, that is missed.
    """
    at_zero, num = value(0.0), 1
    noise = ROUNDING * abs(at_zero)
    rate = start if start > 0 else 1.0
    low, high = 0.0, math.inf
    for _ in range(MOST_DOUBLINGS):
        num += 1
        change = value(rate) - at_zero
        if change < -noise:
            low = rate
        elif change > noise or not math.isfinite(change):
            high = rate
        elif high < math.inf:
            return None, num  # between a rise and no change at all: the gradient is lost in noise
        if low and high < math.inf:
            break
        rate = 2 * rate if high == math.inf else rate / 2
    if not low or high == math.inf:
        return None, num
    while high > (1 + tolerance) * low:
        middle, num = math.sqrt(low * high), num + 1
        low, high = (middle, high) if value(middle) < at_zero else (low, middle)
    return math.sqrt(low * high), num


def batch_sharpness(gradients: Tensor, curvatures: Tensor) -> tuple[float | None, float | None]:
    """Return the mean of the `curvatures` g . H g (B,) over that of |g|^2 of the `gradients` (B,
    P), and its jackknife standard error over batches (None for one); None for zero gradients.
    """
    squares = gradients.square().sum(dim=1)
    if not float(squares.sum()) > 0:
        return None, None
    left_out = [
        float((curvatures.sum() - one) / (squares.sum() - square))
        for one, square in zip(curvatures, squares, strict=True)
    ]
    return float(curvatures.sum() / squares.sum()), _jackknife(left_out, fewest=2)


def noise_scale(gradients: Tensor, batch_size: int) -> tuple[float | None, float | None]:
    """Return tr(Sigma) / |G|^2 from the gradients (B, P) of batches of `batch_size`, and its
    jackknife standard error over batches.

    With m the mean of B gradients, tr(Sigma) is estimated by batch_size / (B - 1) sum_b |g_b -
    m|^2, and |G|^2 by |m|^2 - tr(Sigma) / (B batch_size). None for fewer than two batches, or
    where the estimate of |G|^2 is not above 0; no error for fewer than three.
    """
    whole = _noise_scale(gradients, batch_size)
    if whole is None or len(gradients) < 3:
        return whole, None
    places = range(len(gradients))
    left_out = [
        _noise_scale(gradients[[i for i in places if i != out]], batch_size) for out in places
    ]
    known = [one for one in left_out if one is not None]
    return whole, _jackknife(known, fewest=3) if len(known) == len(left_out) else None


def _noise_scale(gradients: Tensor, batch_size: int) -> float | None:
    num = len(gradients)
    if num < 2:
        return None
    mean = gradients.mean(dim=0)
    trace = batch_size * float((gradients - mean).square().sum()) / (num - 1)
    square = float(mean.square().sum()) - trace / (num * batch_size)
    return trace / square if square > 0 else None


def _jackknife(left_out: Sequence[float], fewest: int) -> float | None:
    num = len(left_out)
    if num < fewest:
        return None
    mean = math.fsum(left_out) / num
    return math.sqrt((num - 1) / num * math.fsum((one - mean) ** 2 for one in left_out))


def _differentiate(
    first: HessianOperator,
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    places: Sequence[slice],
    data: Dataset,
    settings: StabilityArgs,
    rng: torch.Generator,
) -> Batches:
    """Take the derivatives of all batches as the operator of the `first` one does."""
    operators = [first]
    for place in places[1:]:
        network = copy_network(module)
        batch = inputs[place], labels[place]
        operators.append(
            HessianOperator(network, *batch, method=first.method, scoring=data.scoring)
        )

    def product(vector: Tensor) -> Tensor:
        total = torch.zeros_like(vector)
        for H in operators:
            total += H(vector) / len(operators)
        return total

    like = first.parameters[0]
    start = rademacher(first.size, rng, like.dtype, like.device)
    spectrum = lanczos(product, start, settings.steps, rng, settings.tolerance)
    gradients = torch.stack([H.gradient().double() for H in operators])
    curvatures = torch.stack(
        [g @ H(g.to(like.dtype)).double() for g, H in zip(gradients, operators, strict=True)]
    )
    return Batches(spectrum, gradients, curvatures, first.method)
