"""Compute volumes of simplexes in weight space, always as logarithms and from orthogonalisation in
float64.

A k-simplex with vertices v_0..v_k has volume |R_11 ... R_kk| / k! with Q R = [v_1 - v_0, ..., v_k -
v_0]. The usual way, squared distances (Cayley-Menger) in float32, overflows and cancels, and gives
the square of V.

The volume of a complex is the sum of the volumes of its simplexes (Benton et al. 2021, section
3.1). Volumes of different dimensions have no common unit. So in a complex with n_d of its n
simplexes of dimension d, of volume V_d together, these have the share n_d / n of the points, and
log V(K) = sum_d (n_d / n) log V_d.

Letters: V vertices, P parameters, S simplexes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrid.metrics.simplex.complexes import Complex

RESOLUTION = (
    2.0**-46
)  # a height below this share of the longest edge is rounding error: the simplex is flat


def log_volume(vertices: Tensor) -> float:
    """Return the log of the k-volume of the simplex with `vertices` (k+1, P); -inf if it is flat,
    as it is for k > P.

    Float64 Householder QR: relative error near 1e-14 in the volume. A point (k = 0) has volume 1.

    >>> round(math.exp(log_volume(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))), 9)
    6.0
    """
    dimension, num_parameters = len(vertices) - 1, vertices.shape[1]
    if dimension > num_parameters:
        return -math.inf
    if dimension == 0:
        return 0.0
    edges = vertices[1:] - vertices[0].double()
    _, R = torch.linalg.qr(edges.t(), mode="r")
    heights = resolved(R.diagonal().abs(), edges)
    return float(heights.log().sum()) - math.lgamma(dimension + 1)


def log_volumes_of(complex_: Complex) -> Tensor:
    """Return the log-volume of each simplex, (S,) in float64 on the CPU."""
    found = [log_volume(complex_.simplex(i)) for i in range(len(complex_.simplexes))]
    return torch.tensor(found, dtype=torch.float64)


def kinds_of(dimensions: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """Return the places of the simplexes of each dimension; nothing if they have the same."""
    if len(set(dimensions)) == 1:
        return ()
    places = [[i for i, own in enumerate(dimensions) if own == d] for d in sorted({*dimensions})]
    return tuple(torch.tensor(each, device=device) for each in places)


def volume_shares(log_volumes: Tensor, kinds: Sequence[Tensor] = ()) -> Tensor:
    """Return each simplex's share (..., S) of the points of a complex: of the total volume of its
    dimension, times that dimension's share of the simplexes; equal shares if all of one dimension
    are flat.
    """
    num = log_volumes.shape[-1]
    if not kinds:
        are_flat = (log_volumes == -math.inf).all(dim=-1, keepdim=True)
        return torch.where(are_flat, 1 / num, log_volumes.softmax(dim=-1))
    shares = torch.zeros_like(log_volumes)
    for places in kinds:
        part = volume_shares(log_volumes.index_select(-1, places)) * (len(places) / num)
        shares = shares.index_copy(-1, places, part)
    return shares


def total_log_volume(log_volumes: Tensor, kinds: Sequence[Tensor] = ()) -> float:
    """Return log V(K) = sum_d (n_d / n) log V_d from the log-volumes (S,) of the simplexes."""
    if not kinds:
        return float(log_volumes.logsumexp(dim=0))
    num = len(log_volumes)
    return sum(len(places) / num * total_log_volume(log_volumes[places]) for places in kinds)


def resolved(heights: Tensor, edges: Tensor) -> Tensor:
    """Set heights (..., k) of simplexes to zero that are only rounding error beside their `edges`
    (..., k, P).
    """
    if not heights.shape[-1]:
        return heights
    longest = torch.linalg.vector_norm(edges, dim=-1).amax(dim=-1, keepdim=True)
    return torch.where(heights > RESOLUTION * longest, heights, 0.0)
