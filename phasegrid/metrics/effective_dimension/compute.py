"""The effective dimension of the Hessian (MacKay 1992; Maddox et al. 2020).

    N_eff(H, z) = sum_i f(lambda_i),   f(lambda) = lambda / (|lambda| + z)

From a Lanczos run, with the k eigenvalues theta_i that it has found and R quadratures with nodes
theta_rj and weights w_rj of the rest of the spectrum (`phasegrid.metrics.hessian.density`),

    N_eff = sum_{i <= k} f(theta_i) + (1/R) sum_r (P - k) sum_j w_rj f(theta_rj).

The papers have no negative eigenvalues; a trained network may. Here they count negatively, so that
f is linear at 0 and the many eigenvalues around it, of both signs, give their trace over z, which a
quadrature knows. Counted as 0 they would make f a kink where most eigenvalues are: 20 steps gave
1950 for ResNet18 of width 8, more than the trace, 700, allows. Letters: P trainable parameters, R
runs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.effective_dimension import EffectiveDimensionArgs
from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.density import converged, measure_spectrum
from phasegrid.metrics.hessian.lanczos import Spectrum, lanczos
from phasegrid.metrics.hessian.operator import HessianOperator, with_right_products
from phasegrid.metrics.network.losses import policy_of, prepared

Row = dict[str, float | int | str | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure the effective dimension of one model; `args` are the fields of
    `EffectiveDimensionArgs`.

    Exact to rounding from a whole spectrum; else an estimate with its standard error over probes,
    which leaves out the error of a quadrature of so many steps. Deterministic in `rng`.

    Raises:
        MetricError: if there is not one model, nothing is trainable, its outputs have a wrong
            shape, or the loss is not finite.
    """
    settings = EffectiveDimensionArgs(**args)  # type: ignore[arg-type]  # the sweep reader checked
    module, inputs, labels = prepared(models, data, rng, settings, "effective_dimension")
    times = 1.0
    if settings.scale == "sum":
        times = float(data.scoring.operations.num_scored(data.train_labels))
    row = with_right_products(
        module,
        inputs,
        labels,
        rng,
        lambda H: _measure(H, settings, settings.z / times, rng),
        data.scoring,
    )
    return {**row, "num_examples": len(labels), "batch_norm": policy_of(models[0], settings)}


def _measure(
    H: HessianOperator, settings: EffectiveDimensionArgs, z: float, rng: torch.Generator
) -> Row:
    """Return the columns computed from H; scaling H and z together changes nothing."""
    spectra = _spectra(H, settings, rng)
    found, rest = _parts(spectra, H.size, z)
    stderr = float(rest.std()) / len(rest) ** 0.5 if len(rest) > 1 else 0.0
    return {
        "effective_dimension": found + (float(rest.mean()) if len(rest) else 0.0),
        "effective_dimension_stderr": stderr,
        "found_part": found,
        "num_hvps": H.num_products,
        "hvp_method": H.method,
        "num_parameters": H.size,
        "loss": H.loss,
    }


def _spectra(
    H: HessianOperator, settings: EffectiveDimensionArgs, rng: torch.Generator
) -> list[Spectrum]:
    like = H.parameters[0]
    if H.size <= settings.exact_parameters:
        start = rademacher(H.size, rng, like.dtype, like.device)
        return [lanczos(H, start, H.size, rng)]
    spectra, _ = measure_spectrum(
        H, HessianArgs(steps=settings.steps, density_probes=settings.probes), rng
    )
    return spectra


def _parts(spectra: Sequence[Spectrum], size: int, z: float) -> tuple[float, Tensor]:
    """Return the part of the eigenvalues that were found, and an estimate (R,) of the rest by each
    run.
    """
    first = spectra[0]
    if first.complete:
        return float(shares(first.ritz_values, z).sum()), torch.empty(0, dtype=torch.float64)
    is_found = converged(first, size)
    exact = float(shares(first.ritz_values[is_found], z).sum())
    others = [(s.ritz_values, s.weights) for s in spectra[1:]]
    seen = float(first.weights[~is_found].sum())
    if seen > torch.finfo(torch.float64).eps:
        others.append((first.ritz_values[~is_found], first.weights[~is_found] / seen))
    left = size - int(is_found.sum())
    return exact, torch.stack([left * (weights @ shares(nodes, z)) for nodes, weights in others])


def shares(eigenvalues: Tensor, z: float) -> Tensor:
    """Return f(lambda) of each eigenvalue.

    >>> shares(torch.tensor([-1.0, 0.0, 1.0, 3.0]), 1.0).tolist()
    [-0.5, 0.0, 0.5, 0.75]
    """
    return eigenvalues / (eigenvalues.abs() + z)
