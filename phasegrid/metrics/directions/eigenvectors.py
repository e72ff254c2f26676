"""Eigenvectors of the Hessian as directions.

Letters: P trainable parameters, K eigenvectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.lanczos import LanczosRun, Spectrum, lanczos
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.texts import counted

BLOCK = 40
"""Vectors of a run for which memory is taken at once."""


@dataclass(frozen=True, slots=True)
class Eigenvectors:
    """Unit eigenvectors (K, P) of some eigenvalues, and |H v - lambda v| of each. The sign of an
    eigenvector has no meaning.
    """

    vectors: Tensor
    eigenvalues: list[float]
    residuals: list[float]
    hvp_method: str


def top_eigenvectors(H: HessianOperator, num: int, rng: torch.Generator) -> Eigenvectors:
    """Find the eigenvectors of the `num` largest eigenvalues (algebraic), in falling order, by one
    Lanczos run.

    It has the defaults of the metric ``hessian``: 40 steps or more, until the largest eigenvalue is
    known to 1e-3; residuals show how well the others are known. Deterministic in `rng`.

    Raises:
        AsymmetryError: if the products are not those of a symmetric matrix.
        MetricError: if there are fewer parameters than eigenvectors.
    """
    _require_enough(H, num)
    usual = HessianArgs()
    spectrum = lanczos(H, _start(H, rng), usual.steps, rng, usual.tolerance)
    return _at(spectrum, range(-1, -num - 1, -1), H)


def extreme_eigenvectors(
    H: HessianOperator, top: int, bottom: int, rng: torch.Generator, steps: int, tolerance: float
) -> Eigenvectors:
    """Find the eigenvectors of the `top` largest eigenvalues in falling order, then those of the
    `bottom` smallest in rising order (algebraic), by one Lanczos run with full reorthogonalisation.

    The run ends when every |H v - lambda v| is at most `tolerance` |lambda|, or what rounding
    allows, and after `steps` steps at the latest. Within the residual of each lies a true
    eigenvalue, and an eigenvector is known to residual / gap, the gap to the next eigenvalue.
    Deterministic in `rng`.

    Raises:
        AsymmetryError: if the products are not those of a symmetric matrix.
        MetricError: if there are fewer parameters than eigenvectors.
    """
    _require_enough(H, top + bottom)
    places = [*range(-1, -top - 1, -1), *range(bottom)]

    def known(spectrum: Spectrum) -> bool:
        bounds = (tolerance * spectrum.ritz_values.abs()).clamp(min=2 * spectrum.rounding)
        return bool((spectrum.residuals <= bounds)[places].all())

    run = LanczosRun(H, _start(H, rng), min(steps, BLOCK), rng)
    return _at(run.advance(min(2 * len(places), steps), steps, known), places, H)


def _require_enough(H: HessianOperator, num: int) -> None:
    if H.size < num:
        raise MetricError(
            f"Hessian: {num} eigenvectors were asked for, but the network has"
            f" {counted(H.size, 'trainable parameter')}; ask for at most {H.size}"
        )


def _start(H: HessianOperator, rng: torch.Generator) -> Tensor:
    like = H.parameters[0]
    return rademacher(H.size, rng, like.dtype, like.device)


def _at(spectrum: Spectrum, places: Sequence[int], H: HessianOperator) -> Eigenvectors:
    """Return the Ritz vectors at some places of the ascending Ritz values."""
    return Eigenvectors(
        torch.stack([spectrum.ritz_vector(place) for place in places]),
        [float(spectrum.ritz_values[place]) for place in places],
        [float(spectrum.residuals[place]) for place in places],
        H.method,
    )
