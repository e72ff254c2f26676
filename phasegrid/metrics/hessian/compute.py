"""The Hessian of the mean loss at trained weights: extreme eigenvalues, trace, spectral
density.

H = (1/N) sum_n d2 l(f(x_n), y_n) / d theta2, l the loss of the trial's objective (cross-entropy
without label smoothing, unless the trial says otherwise), over the trainable parameters, BatchNorm
affine and biases included, weight decay not (Yang et al. 2021, section 2 and appendix A.3, with the
published code's choices). One Lanczos run gives lambda_max and lambda_min, as algebraic values with
their residuals, and the density. In the density, the eigenvalues that were found have their exact
weight, and only the rest is estimated. The trace is exact if tr(H) = tr(GGN) is known to hold;
otherwise it is an estimate with a standard error. PyHessian (Yao et al. 2020) instead finds the
eigenvalue of largest magnitude and gives the trace without an error. The treatment of BatchNorm
changes the numbers many-fold and is an argument.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.density import deflated_density, measure_spectrum
from phasegrid.metrics.hessian.exact_trace import exact_trace
from phasegrid.metrics.hessian.lanczos import LONGEST
from phasegrid.metrics.hessian.operator import HessianOperator, with_right_products
from phasegrid.metrics.hessian.preparing import as_parameters, draw_examples, prepare
from phasegrid.metrics.hessian.trace import TraceEstimate, deflated_hutchinson
from phasegrid.models.weights import has_batch_norm

Row = dict[str, float | int | str | list[float] | list[str] | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure the Hessian of one model; `args` are the fields of `HessianArgs`.

    Deterministic in `rng` and the model, which is not changed. `trace` is exact if `trace_stderr`
    is 0. Within its residual of each eigenvalue lies a true one. The density is an estimate from
    `density_probes` random vectors, except for the weights of converged eigenvalues. Of several
    runs the outermost Ritz values are taken, but lambda_min is that of the first run if it has
    converged there.

    Raises:
        MetricError: if there is not one model, its outputs do not have the shape of the labels
            and one more, of classes, or a number is not finite.
    """
    settings = HessianArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1:
        raise MetricError(f"the Hessian is measured on one model, got {len(models)}")
    module = prepare(models[0], settings.batch_norm, data.train_inputs, rng)
    inputs, labels = draw_examples(data, settings.examples, settings.example_seed)
    inputs = as_parameters(inputs, module)
    curvature, exact = data.objective.curvature, None
    if settings.trace == "auto" and curvature is not None:
        exact = partial(exact_trace, module, inputs, curvature)
    row = with_right_products(
        module,
        inputs,
        labels,
        rng,
        lambda H: _measure(H, exact, settings, rng),
        data.scoring,
    )
    return {
        **row,
        "num_examples": len(labels),
        "batch_norm": settings.batch_norm if has_batch_norm(models[0]) else None,
    }


def _measure(
    H: HessianOperator,
    exact: Callable[[], TraceEstimate | None] | None,
    settings: HessianArgs,
    rng: torch.Generator,
) -> Row:
    """Return the columns computed from H; its trace is what `exact` returns, unless that is None.

    Raises:
        AsymmetryError: if the products are not those of a symmetric matrix.
    """
    spectra, run = measure_spectrum(H, settings, rng)
    top = max(spectra, key=lambda s: float(s.ritz_values[-1]))
    found = None if exact is None else exact()
    trace = found or deflated_hutchinson(H, spectra[0], settings.trace_probes, rng)
    density = deflated_density(spectra[0], spectra[1:], H.size)
    longer = run.advance(
        0, LONGEST * settings.steps, lambda s: s.knows_smallest(settings.tolerance)
    )
    others = [] if longer.knows_smallest(settings.tolerance) else spectra[1:]
    bottom = min([longer, *others], key=lambda s: float(s.ritz_values[0]))
    return {
        "lambda_max": float(top.ritz_values[-1]),
        "lambda_max_residual": float(top.residuals[-1]),
        "lambda_min": float(bottom.ritz_values[0]),
        "lambda_min_residual": float(bottom.residuals[0]),
        **trace.columns(),
        "density_nodes": density.nodes.tolist(),
        "density_weights": density.weights.tolist(),
        "num_hvps": H.num_products,
        "hvp_method": H.method,
        "loss": H.loss,
        "num_parameters": H.size,
    }
