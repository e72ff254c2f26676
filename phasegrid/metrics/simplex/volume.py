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
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.simplex.complexes import Complex
from phasegrid.metrics.simplex.wiring import Simplexes

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


def log_volumes_of(complex_: Complex) -> Tensor:
    """Return the log-volume of each simplex, (S,) in float64 on the CPU."""
    found = [log_volume(complex_.simplex(i)) for i in range(len(complex_.simplexes))]
    return torch.tensor(found, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class FixedFaces:
    """The faces of the simplexes of a new vertex that are opposite to it: they stay fixed while it
    moves.

    The distance of the new vertex from the span of face i is the norm of theta - origin_i without
    its components along `shared` (orthonormal rows common to all faces) and along row i of each
    matrix (S, P) of `own` (further orthonormal directions of face i; zero where it has fewer). All
    float64. `log_volumes` (S,) are the volumes of the faces, `log_dimensions` (S,) the logs of the
    dimensions of the simplexes, and `kinds` their places by dimension (`kinds_of`).
    """

    origins: Tensor
    shared: Tensor
    own: tuple[Tensor, ...]
    log_volumes: Tensor
    log_dimensions: Tensor
    kinds: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class MovingVertex:
    """The simplexes that a vertex spans with fixed faces: their `log_volumes` (S,), their `shares`
    (S,) of the points of the complex, and the `heights` of the vertex.

    `normals` (S, P) point from each face to the vertex, with length `heights` (S,).
    """

    log_volumes: Tensor
    shares: Tensor
    heights: Tensor
    normals: Tensor


def fix_faces(vertices: Tensor, faces: Simplexes) -> FixedFaces:
    """Orthogonalise the faces, which are given by the numbers of their `vertices` (V, P), once per
    new connector.

    What all faces share is orthogonalised once: if they share all vertices but one, this needs V P
    float64 numbers of memory.
    """
    fixed = vertices.double()
    common = [vertex for vertex in faces[0] if all(vertex in face for face in faces)]
    own = [[vertex for vertex in face if vertex not in common] for face in faces]
    firsts, rest = ([common[0]], own) if common else ([o[0] for o in own], [o[1:] for o in own])
    origins = fixed[firsts]
    edges = fixed[common[1:]] - origins[:1]
    Q, R = torch.linalg.qr(edges.t())
    shared, heights = Q.t().contiguous(), _resolved(R.diagonal().abs(), edges)
    rows, log_heights = _own_rows(fixed, origins, shared, rest)
    dimensions = [len(face) for face in faces]
    factorials = [math.lgamma(dimension) for dimension in dimensions]
    log_volumes = heights.log().sum() + log_heights - log_heights.new_tensor(factorials)
    return FixedFaces(
        origins,
        shared,
        rows,
        log_volumes,
        log_heights.new_tensor([math.log(dimension) for dimension in dimensions]),
        kinds_of(dimensions, fixed.device),
    )


def move_vertex(faces: FixedFaces, vertex: Tensor) -> MovingVertex:
    """Return the simplexes that `vertex` (P,) spans with the faces: V_i = V(face_i) h_i /
    dimension_i.
    """
    offsets = vertex.double() - faces.origins
    normals = offsets - (offsets @ faces.shared.t()) @ faces.shared
    for row in faces.own:
        normals = _without(normals, row)
    heights = torch.linalg.vector_norm(normals, dim=1)
    heights = torch.where(
        heights > RESOLUTION * torch.linalg.vector_norm(offsets, dim=1), heights, 0.0
    )
    log_volumes = faces.log_volumes + heights.log() - faces.log_dimensions
    return MovingVertex(log_volumes, volume_shares(log_volumes, faces.kinds), heights, normals)


def kinds_of(dimensions: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """Return the places of the simplexes of each dimension; nothing if they have the same."""
    if len(set(dimensions)) == 1:
        return ()
    places = [[i for i, own in enumerate(dimensions) if own == d] for d in sorted({*dimensions})]
    return tuple(torch.tensor(each, device=device) for each in places)


def volume_shares(log_volumes: Tensor, kinds: Sequence[Tensor] = ()) -> Tensor:
    """Return each simplex's share (S,) of the points of a complex: of the total volume of its
    dimension, times that dimension's share of the simplexes; equal shares if all of one dimension
    are flat.
    """
    if not kinds:
        are_flat = (log_volumes == -math.inf).all()
        return torch.where(are_flat, 1 / len(log_volumes), log_volumes.softmax(dim=0))
    shares = torch.zeros_like(log_volumes)
    for places in kinds:
        part = volume_shares(log_volumes[places]) * (len(places) / len(log_volumes))
        shares = shares.index_copy(0, places, part)
    return shares


def total_log_volume(log_volumes: Tensor, kinds: Sequence[Tensor] = ()) -> float:
    """Return log V(K) = sum_d (n_d / n) log V_d from the log-volumes (S,) of the simplexes."""
    if not kinds:
        return float(log_volumes.logsumexp(dim=0))
    num = len(log_volumes)
    return sum(len(places) / num * total_log_volume(log_volumes[places]) for places in kinds)


def log_volume_gradient(moving: MovingVertex) -> Tensor:
    """Return the gradient (P,) of log V(K) for the moving vertex, in float64.

    With one dimension V(K) = sum_i V_i and d log V(K) / d theta = sum_i (V_i / V(K)) normal_i /
    h_i^2: it points away from every face, and nearer faces weigh more. With several, V_i / V(K)
    becomes the share of `volume_shares`. Exact; a flat simplex contributes nothing (its volume has
    no gradient).
    """
    steepness = torch.where(moving.heights > 0, moving.shares / moving.heights**2, 0.0)
    return steepness @ moving.normals


def _own_rows(
    fixed: Tensor, origins: Tensor, shared: Tensor, rest: Sequence[Sequence[int]]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Orthogonalise what each face has alone: return unit rows, a matrix (S, P) for each of the
    most vertices that one has, and the sums (S,) of their log-heights.
    """
    rows: list[Tensor] = []
    log_heights = fixed.new_zeros(len(rest))
    for place in range(max(map(len, rest))):
        has = fixed.new_tensor([len(own) > place for own in rest]).bool()
        chosen = [own[place] if len(own) > place else 0 for own in rest]
        edges = fixed[chosen] - origins
        normals = edges - (edges @ shared.t()) @ shared
        for _ in range(min(len(rows), 2)):  # twice is enough for rows of rounded directions
            for row in rows:
                normals = _without(normals, row)
        lengths = torch.linalg.vector_norm(normals, dim=1)
        resolved = lengths > RESOLUTION * torch.linalg.vector_norm(edges, dim=1)
        log_heights += torch.where(has, torch.where(resolved, lengths, 0.0).log(), 0.0)
        unit = normals / lengths.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
        rows.append(torch.where(has.unsqueeze(1), unit, 0.0))
    return tuple(rows), log_heights


def _without(normals: Tensor, row: Tensor) -> Tensor:
    """Remove from `normals` (S, P), or from one for all simplexes (1, P), their components along
    the unit rows (S, P).
    """
    along = row @ normals[0] if len(normals) == 1 else (row * normals).sum(dim=1)
    return normals - along.unsqueeze(1) * row


def _resolved(heights: Tensor, edges: Tensor) -> Tensor:
    """Set heights to zero that are only rounding error."""
    longest = torch.linalg.vector_norm(edges, dim=1).amax() if len(edges) else edges.new_zeros(())
    return torch.where(heights > RESOLUTION * longest, heights, 0.0)
