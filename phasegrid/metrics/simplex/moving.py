"""Follow the volumes of the simplexes of a complex while the last vertex, which all of them have,
moves: in float64, and for several complexes of one wiring at once.

The other vertices of these simplexes are fixed and span a space of dimension r, which is
orthogonalised once. In its coordinates the moving vertex is (c, h), with c (r,) inside and a
distance h from it. Its height over the face of a simplex is then sqrt(|N (c - f)|^2 + h^2), with f
a corner of the face and N the projector out of it. So an update takes three products with r vectors
of length P, whatever the wiring is. Distances are not squared before they are orthogonalised, so a
height keeps its digits down to `RESOLUTION` of the distance to a corner.

Letters: K complexes, V vertices of each, S simplexes, P parameters.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.simplex.volume import RESOLUTION, kinds_of, resolved, volume_shares
from phasegrid.metrics.simplex.wiring import Simplexes


@dataclass(frozen=True, slots=True)
class FixedFaces:
    """What stays fixed: the `origins` (K, P) and orthonormal rows `basis` (K, r, P) of the space of
    the fixed vertices, and in its coordinates a corner (K, S, r) of the face of every simplex and
    the projector (K, S, r, r) out of that face.

    `log_volumes` (K, S) are those of the faces, which the vertex extends to simplexes with these
    logs of their dimensions, `log_dimensions` (S,); `kinds` are their places by dimension.
    """

    origins: Tensor
    basis: Tensor
    corners: Tensor
    projectors: Tensor
    log_volumes: Tensor
    log_dimensions: Tensor
    kinds: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the moving vertices are: the `log_volumes` (K, S) of the simplexes, their `shares` (K,
    S) of the points of the complex, and the `heights` (K, S) of the vertex over their faces. The
    `normals` (K, S, r) of these lie inside the space of the fixed vertices but for one part,
    `outside` (K, P), that all share.
    """

    log_volumes: Tensor
    shares: Tensor
    heights: Tensor
    normals: Tensor
    outside: Tensor


def fix_faces(vertices: Tensor, simplexes: Simplexes) -> FixedFaces:
    """Orthogonalise the `vertices` (K, V, P) that a simplex shares with the last one, which all
    `simplexes` have, once for every new one. Of r + 1 of them K (r + 1) P float64 numbers are kept;
    twice as many, and K r P numbers like the vertices', are needed meanwhile.
    """
    beside = sorted({vertex for simplex in simplexes for vertex in simplex[:-1]})
    origins = vertices[:, beside[0]].double()
    edges = vertices[:, beside[1:]].double().sub_(origins.unsqueeze(1))
    Q, R = torch.linalg.qr(edges.mT)
    coordinates = torch.cat([R.new_zeros(len(R), 1, R.shape[1]), R.mT], dim=1)
    faces = [[beside.index(vertex) for vertex in simplex[:-1]] for simplex in simplexes]
    found = [_face(coordinates[:, face]) for face in faces]
    corners, projectors, log_volumes = (torch.stack(part, 1) for part in zip(*found, strict=True))
    dimensions = [len(face) for face in faces]
    log_dimensions = R.new_tensor([math.log(dimension) for dimension in dimensions])
    kinds = kinds_of(dimensions, R.device)
    basis = Q.mT.contiguous()
    return FixedFaces(origins, basis, corners, projectors, log_volumes, log_dimensions, kinds)


def move(faces: FixedFaces, vertex: Tensor) -> Moved:
    """Return where the moving `vertex` (K, P) of each complex is: V_i = V(face_i) h_i / k for a
    simplex of dimension k.
    """
    offsets = vertex.double() - faces.origins
    inside = torch.bmm(faces.basis, offsets.unsqueeze(2)).squeeze(2)
    outside = offsets - torch.bmm(inside.unsqueeze(1), faces.basis).squeeze(1)
    square = outside.square().sum(dim=1, keepdim=True)
    apart = inside.unsqueeze(1) - faces.corners
    normals = torch.matmul(faces.projectors, apart.unsqueeze(3)).squeeze(3)
    heights = (normals.square().sum(dim=2) + square).sqrt()
    distances = (apart.square().sum(dim=2) + square).sqrt()
    heights = torch.where(heights > RESOLUTION * distances, heights, 0.0)
    log_volumes = faces.log_volumes + heights.log() - faces.log_dimensions
    return Moved(log_volumes, volume_shares(log_volumes, faces.kinds), heights, normals, outside)


def log_volume_gradient(faces: FixedFaces, moved: Moved) -> Tensor:
    """Return the gradient (K, P) of log V for the moving vertices, in float64.

    With one dimension V = sum_i V_i and d log V / d theta = sum_i (V_i / V) normal_i / h_i^2: it
    points away from every face, and nearer faces weigh more. With several, V_i / V becomes the
    share of `volume_shares`. Exact; a flat simplex contributes nothing (its volume has no
    gradient).
    """
    steepness = torch.where(moved.heights > 0, moved.shares / moved.heights.square(), 0.0)
    inside = torch.bmm(steepness.unsqueeze(1), moved.normals)
    gradient = moved.outside * steepness.sum(dim=1, keepdim=True)
    return gradient.add_(torch.bmm(inside, faces.basis).squeeze(1))


def _face(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return of faces with `corners` (K, m, r): the first corner (K, r), the projector (K, r, r)
    out of the face, and the log-volume (K,), -inf if it is flat.
    """
    first, size = corners[:, 0], corners.shape[2]
    edges = corners[:, 1:] - first.unsqueeze(1)
    Q, R = torch.linalg.qr(edges.mT)
    projector = torch.eye(size, dtype=Q.dtype, device=Q.device) - Q @ Q.mT
    if edges.shape[1] > size:
        return first, projector, first.new_full((len(first),), -math.inf)
    heights = resolved(R.diagonal(dim1=1, dim2=2).abs(), edges)
    return first, projector, heights.log().sum(dim=1) - math.lgamma(edges.shape[1] + 1)
