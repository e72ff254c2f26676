"""Compute volumes of simplexes in weight space, always as logarithms and from orthogonalisation in
float64.

A k-simplex with vertices v_0..v_k has volume |R_11 ... R_kk| / k! with Q R = [v_1 - v_0, ..., v_k -
v_0]. The usual way, squared distances (Cayley-Menger) in float32, overflows and cancels, and gives
the square of V. Letters: M modes w_i, J fixed connectors theta, P parameters. The complex K is the
union of the M simplexes (w_i, theta_0, ..., theta_j), which share all vertices but one (Benton et
al. 2021, section 3.2); its volume is the sum of their volumes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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
    edges = vertices[1:].double() - vertices[0].double()
    _, R = torch.linalg.qr(edges.t(), mode="r")
    heights = _resolved(R.diagonal().abs(), edges)
    return float(heights.log().sum()) - math.lgamma(dimension + 1)


@dataclass(frozen=True, slots=True)
class FixedFaces:
    """The faces (w_i, theta_0..theta_{J-1}) of the complex, which stay fixed while a new vertex
    moves.

    The distance of the new vertex from the span of face i is the norm of theta - origin_i without
    its components along `shared` (orthonormal rows common to all faces) and `own` row i (one
    further direction of face i). All float64. `log_volumes` (M,) are the volumes of the faces;
    `dimension` is that of the simplexes.
    """

    origins: Tensor
    shared: Tensor
    own: Tensor | None
    log_volumes: Tensor
    dimension: int


@dataclass(frozen=True, slots=True)
class MovingVertex:
    """The simplexes that a vertex spans with fixed faces: their `log_volumes` (M,), and the
    `heights` of the vertex.

    `normals` (M, P) point from each face to the vertex, with length `heights` (M,).
    """

    log_volumes: Tensor
    heights: Tensor
    normals: Tensor


def fix_faces(modes: Tensor, connectors: Tensor) -> FixedFaces:
    """Orthogonalise the faces of `modes` (M, P) with `connectors` (J, P), once per new connector.

    Needs (M + J) P float64 numbers of memory.
    """
    w, theta = modes.double(), connectors.double()
    num_fixed = len(theta)
    if num_fixed == 0:
        return FixedFaces(w, w[:0], None, w.new_zeros(len(w)), 1)
    edges = theta[1:] - theta[:1]
    Q, R = torch.linalg.qr(edges.t())
    shared = Q.t().contiguous()
    to_modes = w - theta[:1]
    normals = to_modes - (to_modes @ shared.t()) @ shared
    lengths = torch.linalg.vector_norm(normals, dim=1)
    heights = _resolved(R.diagonal().abs(), edges)
    own_heights = torch.where(
        lengths > RESOLUTION * torch.linalg.vector_norm(to_modes, dim=1), lengths, 0.0
    )
    own = normals / lengths.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    log_volumes = heights.log().sum() + own_heights.log() - math.lgamma(num_fixed + 1)
    return FixedFaces(theta[:1], shared, own, log_volumes, num_fixed + 1)


def move_vertex(faces: FixedFaces, vertex: Tensor) -> MovingVertex:
    """Return the simplexes that `vertex` (P,) spans with the faces: V_i = V(face_i) h_i /
    dimension.
    """
    offsets = vertex.double() - faces.origins
    normals = offsets - (offsets @ faces.shared.t()) @ faces.shared
    if faces.own is not None:
        normals = normals - (faces.own @ normals[0]).unsqueeze(1) * faces.own
    heights = torch.linalg.vector_norm(normals, dim=1)
    heights = torch.where(
        heights > RESOLUTION * torch.linalg.vector_norm(offsets, dim=1), heights, 0.0
    )
    log_volumes = faces.log_volumes + heights.log() - math.log(faces.dimension)
    return MovingVertex(log_volumes, heights, normals)


def volume_shares(log_volumes: Tensor) -> Tensor:
    """Return each simplex's share (M,) of the total volume; equal shares if all are flat."""
    are_flat = (log_volumes == -math.inf).all()
    return torch.where(are_flat, 1 / len(log_volumes), log_volumes.softmax(dim=0))


def log_volume_gradient(moving: MovingVertex) -> Tensor:
    """Return the gradient (P,) of log V(K) = log sum_i V_i for the moving vertex, in float64.

    d log V(K) / d theta = sum_i (V_i / V(K)) normal_i / h_i^2: it points away from every face, and
    nearer faces weigh more. Exact; a flat simplex contributes nothing (its volume has no gradient).
    """
    steepness = torch.where(
        moving.heights > 0, volume_shares(moving.log_volumes) / moving.heights**2, 0.0
    )
    return steepness @ moving.normals


def _resolved(heights: Tensor, edges: Tensor) -> Tensor:
    """Set heights to zero that are only rounding error."""
    longest = torch.linalg.vector_norm(edges, dim=1).amax() if len(edges) else edges.new_zeros(())
    return torch.where(heights > RESOLUTION * longest, heights, 0.0)
