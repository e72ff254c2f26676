"""Curves between two weight vectors: where a point of the curve lies, and how long the curve is.

A curve with n bends has V = n + 2 vertices, the rows of a matrix (V, P): end, bends in order, end.
Its point at t is gamma(t) = sum_j B_j(t) vertex_j with sum_j B_j(t) = 1 (Garipov et al. 2018,
section 3.2). Letters: V vertices, P parameters, T values of t. Yang et al. 2021 count the ends too:
their "three bends" are one bend here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.models.weights import parameter_slices, parameters_vector

Shape = Literal["bezier", "polychain", "random_segment"]
"""The curves. A random segment has no bends, and its last vertex is not the second network."""

LENGTH_POINTS = 101
_CHUNK = 1 << 20  # columns turned to float64 at a time: bounds the memory of a Gram matrix


@dataclass(frozen=True, slots=True)
class CurvePoints:
    """Points of a curve as weights of its vertices: `coefficients` (T, V), and the vertices that
    each point uses.

    A point of a polychain uses two vertices, whatever their number. An end uses one and is exact.
    """

    coefficients: Tensor
    spans: tuple[slice, ...]

    def at(self, index: int, vertices: Tensor) -> Tensor:
        """Return point `index` (P,) of the curve through `vertices` (V, P)."""
        span = self.spans[index]
        return torch.mv(vertices[span].t(), self.coefficients[index, span])


def place_points(curve: Shape, t: Tensor, vertices: Tensor) -> CurvePoints:
    """Return the points at `t` (T,) of the curve through `vertices`, ready to mix on their device
    in their dtype.
    """
    exact = vertex_weights(curve, len(vertices) - 2, t)
    spans = []
    for row in exact.tolist():
        used = [j for j, weight in enumerate(row) if weight != 0.0]
        spans.append(slice(used[0], used[-1] + 1))
    return CurvePoints(exact.to(vertices), tuple(spans))


def vertex_weights(curve: Shape, num_bends: int, t: Tensor) -> Tensor:
    """Return B_j(t) in float64, shape (T, V), for t (T,) in [0, 1].

    - ``bezier``: B_j(t) = C(n+1, j) t^j (1 - t)^(n+1-j).
    - ``polychain``, ``random_segment``: B_j(t) = max(0, 1 - |(n+1) t - j|), straight pieces of
      equal length in t.

    Source: Garipov et al. 2018, section 3.2 and supplement.

    Raises:
        MetricError: for a t outside [0, 1], where there is no curve.

    >>> vertex_weights("bezier", 1, torch.tensor([0.0, 0.5])).tolist()
    [[1.0, 0.0, 0.0], [0.25, 0.5, 0.25]]
    """
    outside = t[~((t >= 0) & (t <= 1))]
    if len(outside):
        raise MetricError(
            f"placing points on a curve: found t = {float(outside[0]):g}; allowed: 0 to 1"
        )
    t = t.double().unsqueeze(1)
    degree = num_bends + 1
    j = torch.arange(degree + 1, dtype=torch.float64, device=t.device)
    if curve != "bezier":
        return (1 - (degree * t - j).abs()).clamp(min=0)
    binomials = torch.tensor([comb(degree, i) for i in range(degree + 1)], device=t.device)
    return binomials * t**j * (1 - t) ** (degree - j)


def chords(curve: Shape, gram: Tensor, t: Tensor) -> Tensor:
    """Return the distances in weight space between consecutive points t (T,), (T - 1,) in float64.

    A chord is D_k vertices with D_k = B(t_{k+1}) - B(t_k), so its squared length is D_k G D_k^T
    with the Gram matrix G = `gram` of the vertices (`edge_gram`: the first vertex is the origin,
    which is allowed because D_k sums to zero).
    """
    steps = vertex_weights(curve, len(gram) - 1, t).diff(dim=0)[:, 1:]
    squares = torch.einsum("ki,ij,kj->k", steps, gram.cpu(), steps)
    return squares.clamp(min=0).sqrt()


def curve_length(curve: Shape, gram: Tensor) -> float:
    """Return the length of the curve in weight space: the sum of the chords between 101 points
    equally spaced in t. A lower bound: no chord is longer than its arc.
    """
    t = torch.linspace(0, 1, LENGTH_POINTS, dtype=torch.float64)
    return float(chords(curve, gram, t).sum())


def edge_gram(vertices: Tensor) -> Tensor:
    """Return the inner products (V-1, V-1), in float64, of the edges from the first vertex to the
    others.
    """
    return _gram(vertices[1:], vertices[:1])


def squared_norms(vertices: Tensor, coefficients: Tensor) -> Tensor:
    """Return the squared norms (T,), over all trainable parameters, of mixes of `vertices` (V, P)
    with the weights B_t in `coefficients` (T, V): B_t G B_t^T with the Gram matrix G of the
    vertices. Exact up to rounding in float64.
    """
    gram = _gram(vertices, vertices.new_zeros(1, 1).expand(1, vertices.shape[1])).cpu()
    squares = []
    for weights in coefficients.cpu().double():
        used = weights != 0  # an end has a norm even if a bend is not a number
        squares.append(weights[used] @ gram[used][:, used] @ weights[used])
    return torch.stack(squares)


def _gram(rows: Tensor, origin: Tensor) -> Tensor:
    """Return the inner products, in float64, of `rows` (R, P) seen from `origin` (1, P)."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        columns = rows[:, part].double() - origin[:, part].double()
        gram += columns @ columns.t()
    return gram


def stack_vertices(models: Sequence[nn.Module]) -> Tensor:
    """Stack the trainable parameters of `models` into rows (M, P).

    Raises:
        MetricError: if their parameters differ in name or shape.
    """
    first = parameter_slices(models[0])
    for number, model in enumerate(models[1:], start=1):
        if parameter_slices(model) != first:
            raise MetricError(
                f"joining models in weight space: the parameters of model {number} differ from"
                f" those of model 0 in name or shape; all models must have the same architecture"
            )
    return torch.stack([parameters_vector(model) for model in models])
