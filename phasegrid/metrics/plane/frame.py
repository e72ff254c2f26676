"""A plane through three points of weight space: its axes, its points, and projections onto it.

With d = w_2 - w_0, e = w_1 - w_0 and c = <e, d> / <d, d>, the axes are u = d / |d| and v = (e - c
d) / |e - c d|, and the point at (x, y) = (alpha |d|, beta |e - c d|) is

    w_0 + alpha d + beta (e - c d) = (1 - alpha - beta + beta c) w_0 + beta w_1 + (alpha - beta c)
    w_2,

so every point is a mix of the three vertices with weights that sum to 1, and the vertices
themselves are exact. A point w is projected onto (<w - w_0, u>, <w - w_0, v>); what is left, r = w
- w_0 - <w - w_0, u> u - <w - w_0, v> v, is orthogonal to the plane, and |r| is its distance.

Letters: K points, P parameters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import edge_gram

FLAT = 1e-12
"""The least squared distance of the third point from the line of the others, as a share of that
from the first.
"""
_CHUNK = 1 << 20  # columns turned to float64 at a time


@dataclass(frozen=True, slots=True)
class Frame:
    """A plane in weight space: |d| and |e - c d|, the lengths of its sides, and c, the place on the
    line from w_0 to w_2 above which w_1 lies.
    """

    width: float
    height: float
    shear: float

    def coefficients(self, alpha: float, beta: float) -> tuple[float, float, float]:
        """Return the weights of w_0, w_1 and w_2 at a point."""
        last = alpha - beta * self.shear
        return 1 - beta - last, beta, last


@dataclass(frozen=True, slots=True)
class Projections:
    """The coordinates `u` and `v` (K,) of points projected onto a plane, and the inner products (K,
    K) of what is left of them, all in float64.
    """

    u: Tensor
    v: Tensor
    rest: Tensor

    def mixed(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return u, v and the distance from the plane of mixes of the points, with weights (T, K)
        that sum to 1.
        """
        squares = torch.einsum("tk,kl,tl->t", coefficients, self.rest, coefficients)
        return coefficients @ self.u, coefficients @ self.v, squares.clamp(min=0).sqrt()


def make_frame(three: Tensor) -> Frame:
    """Return the plane through the rows of `three` (3, P): w_0, w_1, w_2.

    Raises:
        MetricError: if they lie on a line.
    """
    gram = edge_gram(three)  # of e and d
    width = math.sqrt(float(gram[1, 1]))
    shear = float(gram[0, 1] / gram[1, 1]) if width > 0 else 0.0
    square = float(gram[0, 0]) - shear * float(gram[0, 1])
    if width == 0 or square <= FLAT * float(gram[0, 0]):
        raise MetricError(
            "plane: its three points lie on a line and do not define a plane; so do those of a"
            " curve that was not trained, and three networks of which two are equal"
        )
    return Frame(width, math.sqrt(square), shear)


def project(points: Tensor, three: tuple[int, int, int], frame: Frame) -> Projections:
    """Project `points` (K, P) onto the plane of those at `three`: w_0, w_1, w_2. The coordinates
    and the distances of these three are exact.
    """
    products = torch.zeros(2, len(points), dtype=torch.float64, device=points.device)
    for edges, axes in _pieces(points, three, frame):
        products += axes @ edges.t()
    rest = torch.zeros(len(points), len(points), dtype=torch.float64, device=points.device)
    for edges, axes in _pieces(points, three, frame):
        left = edges - products.t() @ axes
        left[list(three)] = 0
        rest += left @ left.t()
    u, v = products.cpu()
    u[list(three)] = torch.tensor([0.0, frame.shear * frame.width, frame.width], dtype=u.dtype)
    v[list(three)] = torch.tensor([0.0, frame.height, 0.0], dtype=v.dtype)
    return Projections(u, v, rest.cpu())


def _pieces(
    points: Tensor, three: tuple[int, int, int], frame: Frame
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the edges from w_0 to all points (K, C) and the unit vectors u and v (2, C), in
    float64, for C parameters at a time.
    """
    origin, above, far = three
    for start in range(0, points.shape[1], _CHUNK):
        columns = points[:, start : start + _CHUNK].double()
        edges = columns - columns[origin]
        height = (edges[above] - frame.shear * edges[far]) / frame.height
        yield edges, torch.stack([edges[far] / frame.width, height])
