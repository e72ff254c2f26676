"""Draw directions through the trained weights w at random or take them from the Hessian, and scale
them to the size of w.

Letters: P trainable parameters, D directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.lanczos import lanczos
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.models.weights import ParameterSlice


@dataclass(frozen=True, slots=True)
class Eigenvectors:
    """Unit eigenvectors (D, P) of the D largest eigenvalues, in falling order, and |H v - lambda v|
    of each.
    """

    vectors: Tensor
    eigenvalues: list[float]
    residuals: list[float]
    hvp_method: str


def draw_directions(num: int, weights: Tensor, rng: torch.Generator) -> Tensor:
    """Draw `num` independent Gaussian directions (D, P) on the device of `rng`; return them in the
    dtype and on the device of `weights` (P,).

    The first of several directions is the one that would be drawn alone.
    """
    drawn = [
        torch.randn(len(weights), generator=rng, dtype=weights.dtype, device=rng.device)
        for _ in range(num)
    ]
    return torch.stack(drawn).to(weights.device)


def top_eigenvectors(H: HessianOperator, num: int, rng: torch.Generator) -> Eigenvectors:
    """Find the eigenvectors of the `num` largest eigenvalues (algebraic) by one Lanczos run.

    It has the defaults of the metric ``hessian``: 40 steps or more, until the largest eigenvalue is
    known to 1e-3; residuals show how well the others are known. Deterministic in `rng`.

    Raises:
        AsymmetryError: if the products are not those of a symmetric matrix.
        MetricError: if there are fewer parameters than directions.
    """
    if H.size < num:
        raise MetricError(
            f"slice: {num} eigenvectors were asked for, but the network has {H.size} trainable"
            " parameter; use dimensions: 1"
        )
    like, usual = H.parameters[0], HessianArgs()
    start = rademacher(H.size, rng, like.dtype, like.device)
    spectrum = lanczos(H, start, usual.steps, rng, usual.tolerance)
    places = range(-1, -num - 1, -1)
    return Eigenvectors(
        torch.stack([spectrum.ritz_vector(place) for place in places]),
        [float(spectrum.ritz_values[place]) for place in places],
        [float(spectrum.residuals[place]) for place in places],
        H.method,
    )


def normalise(
    directions: Tensor,
    weights: Tensor,
    slices: Sequence[ParameterSlice],
    how: Literal["filter", "none"],
) -> Tensor:
    """Scale every direction (D, P) to the size of `weights` (P,).

    ``filter``: each filter is scaled to the norm of the same filter of the weights, d_k <- d_k
    |w_k| / |d_k|. A filter gives one output of a layer: one first index of a parameter with two
    dimensions or more. Parameters of one dimension (biases, BatchNorm) become zero (Li et al. 2018,
    section 4; published code with ``ignore=biasbn``, which adds 1e-10 to |d_k|; here a filter of
    norm 0 stays 0 instead). ``none``: the direction is scaled as a whole, d <- d |w| / |d| (Xu et
    al. 2024, section 2.1).

    Raises:
        MetricError: if a direction becomes zero.
    """
    if how == "none":
        scaled = _to_norm(directions, torch.linalg.vector_norm(weights))
    else:
        scaled = torch.zeros_like(directions)
        for part in slices:
            if len(part.shape) > 1:
                filters = weights[part.start : part.stop].view(part.shape[0], -1)
                wanted = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
                drawn = directions[:, part.start : part.stop].reshape(
                    len(directions), *filters.shape
                )
                scaled[:, part.start : part.stop] = _to_norm(drawn, wanted).flatten(1)
    if not bool((scaled != 0).any(dim=1).all()):
        raise MetricError(
            f"slice: normalize: {how} makes a direction zero; the weights are all zero, or"
            " no parameter has two dimensions (try normalize: none)"
        )
    return scaled


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of the angle between two vectors (P,), in float64."""
    a, b = a.double(), b.double()
    return float(a @ b / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)))


def _to_norm(vectors: Tensor, norm: Tensor) -> Tensor:
    """Scale the last dimension of `vectors` to `norm`; zero stays zero."""
    own = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(own > 0, vectors * (norm / own), 0.0)
