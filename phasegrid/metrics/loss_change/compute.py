"""The change of the loss under Gaussian perturbations (Xu et al. 2024, sections 2.6 and A.2).

For epsilon ~ N(0, sigma^2 I) the change to second order, lambda e^T g + lambda^2 e^T H e / 2, has

    mean       lambda^2 sigma^2 tr(H) / 2,
    variance   lambda^2 sigma^2 |g|^2 + lambda^4 sigma^4 tr(HH) / 2

(g, H gradient and Hessian of the mean loss at theta; the cross term has the mean 0, being odd). In
the paper the powers of lambda in the variance are misprinted, as lambda |g|^2 and lambda^2.

Letters: P trainable parameters, R draws.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions.drawing import draw_directions, loss_and_gradient
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.exact_trace import exact_trace
from phasegrid.metrics.hessian.lanczos import lanczos
from phasegrid.metrics.hessian.operator import HessianOperator, with_right_products
from phasegrid.metrics.hessian.preparing import as_parameters, draw_examples, prepare
from phasegrid.metrics.hessian.trace import TraceEstimate
from phasegrid.metrics.loss_change import CHECKED, LossChangeArgs
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.slice.evaluation import MovingNetwork, make_examples, measure_slice
from phasegrid.models.weights import has_batch_norm, num_parameters

Row = dict[str, float | int | str | list[float | None] | None]


@dataclass(frozen=True, slots=True)
class _Draws:
    """Of R draws e: `slopes` e^T g (R,), `forms` e^T H e (R,), `squares` |H e|^2 (R,), and the
    losses at theta + lambda e, (R, sizes), all in float64 on the CPU.
    """

    slopes: Tensor
    forms: Tensor
    squares: Tensor
    losses: Tensor
    trace: TraceEstimate
    loss: float
    method: str


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> list[Row]:
    """Perturb one model; `args` are the fields of `LossChangeArgs`. Return a row for each size.

    Deterministic in `rng` and the model, which is not changed. Changes and second-order changes are
    exact to rounding for the drawn examples; their means are estimates of those by theory, with a
    standard error of theory_std / sqrt(R).

    Raises:
        MetricError: if there is not one model with trainable parameters, its outputs have another
            shape, or the loss is not finite at its weights.
    """
    settings = LossChangeArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1 or num_parameters(models[0]) == 0:
        raise MetricError(
            f"loss_change perturbs the trainable parameters of one network; got {len(models)}"
        )
    module = prepare(models[0], settings.batch_norm, data.train_inputs, rng)
    inputs, labels = draw_examples(data, settings.examples, settings.example_seed)
    inputs = as_parameters(inputs, module)
    _, gradient = loss_and_gradient(module, inputs, labels, data.scoring)
    moving = MovingNetwork(module)
    examples = make_examples(moving, inputs, labels, data.scoring)
    weights, steps = moving.flat.rows()[0], [size * settings.sigma for size in settings.sizes]

    def losses(draw: Tensor, steps: Sequence[float] = steps) -> Tensor:
        return measure_slice(moving, draw.unsqueeze(0), steps, [examples])[0, 0, :, 0]

    base = losses(torch.zeros_like(weights), [0.0])

    curvature = data.objective.curvature
    exact = None if curvature is None else partial(exact_trace, module, inputs, curvature)
    found = with_right_products(
        module,
        inputs,
        labels,
        rng,
        lambda H: _measure(H, weights, gradient, losses, exact, settings, rng),
        data.scoring,
    )
    common: Row = {
        "sigma": settings.sigma,
        "gradient_norm": float(torch.linalg.vector_norm(gradient)),
        "num_examples": len(labels),
        "num_parameters": len(gradient),
        "batch_norm": settings.batch_norm if has_batch_norm(models[0]) else None,
    }
    changes = found.losses - base
    return [
        common | _row(found, changes[:, i], gradient, size, settings)
        for i, size in enumerate(settings.sizes)
    ]


def theory(
    step: float, slope_square: float, trace: float, trace_of_square: float
) -> tuple[float, float]:
    """Return mean and standard deviation of the second-order change for epsilon of deviation `step`
    = lambda sigma: from |g|^2, tr(H) and tr(HH).

    >>> theory(2.0, 9.0, 3.0, 8.0)
    (6.0, 10.0)
    """
    variance = step**2 * slope_square + step**4 * trace_of_square / 2
    return step**2 * trace / 2, math.sqrt(variance)


def _measure(
    H: HessianOperator,
    weights: Tensor,
    gradient: Tensor,
    losses: Callable[[Tensor], Tensor],
    exact: Callable[[], TraceEstimate | None] | None,
    settings: LossChangeArgs,
    rng: torch.Generator,
) -> _Draws:
    """Draw with unit deviation and measure; `rng` gives the draws first, whatever is exact.

    Raises:
        AsymmetryError: if the products are not those of a symmetric matrix.
    """
    found, at = [], []
    for _ in range(settings.num):
        draw = draw_directions(1, weights, rng)[0]
        product, long = H(draw.to(H.parameters[0])).double(), draw.double()
        found.append(torch.stack([long @ gradient, long @ product, product @ product]))
        at.append(losses(draw))
    like = H.parameters[0]
    lanczos(H, rademacher(H.size, rng, like.dtype, like.device), CHECKED, rng)  # are they right?
    trace = None if exact is None else exact()
    slopes, forms, squares = torch.stack(found, dim=1).cpu()
    return _Draws(
        slopes,
        forms,
        squares,
        torch.stack(at),
        trace or _estimated_trace(H, settings.trace_probes, rng),
        H.loss,
        H.method,
    )


def _estimated_trace(H: HessianOperator, probes: int, rng: torch.Generator) -> TraceEstimate:
    """Estimate tr(H) by z^T H z of random sign vectors z (Hutchinson 1990)."""
    like, values = H.parameters[0], []
    for _ in range(probes):
        z = rademacher(H.size, rng, like.dtype, like.device)
        values.append(torch.dot(z.double(), H(z).double()))
    found = torch.stack(values)
    return TraceEstimate(float(found.mean()), float(found.std()) / math.sqrt(probes), "hutchinson")


def _row(
    found: _Draws, changes: Tensor, gradient: Tensor, size: float, settings: LossChangeArgs
) -> Row:
    step, error = size * settings.sigma, 1 / math.sqrt(settings.num)
    second = step * found.slopes + step**2 / 2 * found.forms
    slope_square, square = float(gradient @ gradient), float(found.squares.mean())
    mean, deviation = theory(step, slope_square, found.trace.trace, square)
    return {
        "size": size,
        "changes": [finite_or_none(change) for change in changes.tolist()],
        "second_order": second.tolist(),
        "mean_change": finite_or_none(float(changes.mean())),
        "mean_change_stderr": finite_or_none(float(changes.std()) * error),
        "std_change": finite_or_none(float(changes.std())),
        "mean_second_order": float(second.mean()),
        "std_second_order": float(second.std()),
        "theory_mean": mean,
        "theory_std": deviation,
        "positive_percent": 100 * float((~(changes <= 0)).double().mean()),
        "loss": found.loss,
        "trace": found.trace.trace,
        "trace_stderr": found.trace.stderr,
        "trace_method": found.trace.method,
        "trace_of_square": square,
        "trace_of_square_stderr": float(found.squares.std()) * error,
        "hvp_method": found.method,
    }
