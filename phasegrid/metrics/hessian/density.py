"""Compute the spectral density of a symmetric operator H: the eigenvalues that one Lanczos run has
found, and an estimate of the rest.

    phi = (1/P) sum_{i in C} delta(theta_i) + ((P - k)/P) (1/R) sum_r sum_j w_rj delta(theta_rj)

C are the k Ritz pairs of the first run that have converged to single eigenvalues; each is 1/P of
the spectrum. R quadratures estimate the rest, with weights w_rj that sum to 1. One is given by the
other nodes of the first run; the others are runs on (1 - V V^T) H (1 - V V^T) that start from (1 -
V V^T) z with random signs z, where the columns of V are the Ritz vectors of C. Plain stochastic
Lanczos quadrature (Lin, Saad and Yang 2016, section 3.2) gives an eigenvalue the weight (v^T z)^2 /
P, with a standard deviation of sqrt(2) / P. For an eigenvalue far out this is most of the error in
the Wasserstein distance. Gambhir, Stathopoulos and Orginos (2017) and Meyer et al. (2021, Hutch++)
likewise remove what is found before they estimate the rest of a trace. Letters: P dimension, m
steps, k converged pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.lanczos import (
    LONGEST,
    LanczosRun,
    MatVec,
    Spectrum,
    short_lanczos,
)
from phasegrid.metrics.hessian.operator import HessianOperator

MAX_RESIDUAL = 0.1  # in gaps: bounds the sine of the angle to an eigenvector
MAX_WEIGHT = 10.8  # in 1/P: (v^T z)^2 of an eigenvector exceeds it once in a thousand runs


def measure_spectrum(
    H: HessianOperator, settings: HessianArgs, rng: torch.Generator
) -> tuple[list[Spectrum], LanczosRun]:
    """Run Lanczos from a random sign vector until lambda_max is known, then `density_probes` - 1
    times on the rest of the spectrum.

    Only the first run keeps its basis. A complete run needs no others. Also return the first run,
    which can be continued.
    """
    like, steps = H.parameters[0], settings.steps
    start = rademacher(H.size, rng, like.dtype, like.device)
    run = LanczosRun(H, start, steps, rng)
    first = run.advance(
        steps, LONGEST * steps, lambda spectrum: spectrum.knows_largest(settings.tolerance)
    )
    others = 0 if first.complete else settings.density_probes - 1
    return [first, *(probe_rest(H, first, steps, rng) for _ in range(others))], run


@dataclass(frozen=True, slots=True)
class Density:
    """`nodes` (n,) ascend; `weights` (n,) sum to 1. Float64, on the CPU."""

    nodes: Tensor
    weights: Tensor


def deflated_density(first: Spectrum, others: Sequence[Spectrum], size: int) -> Density:
    """Join runs on an operator of dimension `size` = P: `first`, and `others` on the space
    orthogonal to its converged pairs.

    Exact if `first` is complete. Otherwise an estimate without a stated error, in which only the
    converged pairs have exact weights. Of a multiple eigenvalue (to rounding) a start vector sees
    only one vector; the others count as part of the rest, where further runs find them. c H gives c
    times the nodes.
    """
    if first.complete:
        return Density(first.ritz_values, first.weights)
    found = converged(first, size)
    seen = float(first.weights[~found].sum())
    rest = [(s.ritz_values, s.weights) for s in others]
    if seen > torch.finfo(torch.float64).eps:
        rest.insert(0, (first.ritz_values[~found], first.weights[~found] / seen))
    if not rest:  # the start vector lies in the converged pairs
        return Density(first.ritz_values, first.weights)
    k = int(found.sum())
    share = (size - k) / size / len(rest)
    exact = torch.full((k,), 1 / size, dtype=torch.float64)
    nodes, order = torch.cat([first.ritz_values[found], *(theta for theta, _ in rest)]).sort()
    weights = torch.cat([exact, *(share * w for _, w in rest)])[order]
    return Density(nodes, weights)


def converged(spectrum: Spectrum, size: int) -> Tensor:
    """Say which Ritz pairs (m,) of a run each stand for one of the `size` = P eigenvalues.

    Two conditions must hold. The residual is at most `MAX_RESIDUAL` times the gap to the next Ritz
    value: this bounds the sine of the angle to an eigenvector (Davis and Kahan 1970, with the gap
    estimated) and excludes neighbours that are not separated yet. The weight is at most
    `MAX_WEIGHT` / P: this excludes a large eigenspace, of which a start vector sees one vector,
    such as the null space of a Hessian of low rank.
    """
    edge = torch.tensor([torch.inf], dtype=torch.float64)
    steps = spectrum.ritz_values.diff()
    gaps = torch.minimum(torch.cat([edge, steps]), torch.cat([steps, edge]))
    return (spectrum.residuals <= MAX_RESIDUAL * gaps) & (spectrum.weights <= MAX_WEIGHT / size)


def probe_rest(matvec: MatVec, first: Spectrum, steps: int, rng: torch.Generator) -> Spectrum:
    """Run Lanczos for at most `steps` from random signs, on an operator without the converged pairs
    of `first`.

    The residuals are for the operator itself. Memory: a few vectors beside the basis of `first`.

    Raises:
        MetricError: if a product is not finite.
    """
    like = first.basis[0]
    size = like.shape[1]
    found = converged(first, size)
    start, norm = torch.zeros_like(like[0]), 0.0
    while norm < 1e-3:
        signs = rademacher(size, rng, like.dtype, like.device)
        start = first.project_out_ritz(first.project_out_ritz(signs, found), found)
        norm = float(torch.linalg.vector_norm(start))
    run = short_lanczos(lambda v: first.project_out_ritz(matvec(v), found), start, steps)
    leaving = torch.linalg.vector_norm(first.residuals[found])
    return replace(run, residuals=torch.hypot(run.residuals, leaving))
