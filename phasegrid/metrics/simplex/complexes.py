"""A simplicial complex in weight space: its vertices, and which of them each simplex has.

Letters: V vertices (modes first, then connectors), P parameters, S simplexes, K vertices of the
largest simplex.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.simplex.wiring import Simplexes


@dataclass(frozen=True, slots=True)
class Complex:
    """The `vertices` (V, P), and the numbers of those of each simplex."""

    vertices: Tensor
    simplexes: Simplexes

    @property
    def members(self) -> Tensor:
        """The simplexes as a matrix (S, K) of vertex numbers, padded with -1."""
        return members_of(self.simplexes).to(self.vertices.device)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The dimension of each simplex."""
        return tuple(len(simplex) - 1 for simplex in self.simplexes)

    def simplex(self, index: int) -> Tensor:
        """Return the vertices (k + 1, P) of simplex `index`."""
        return self.vertices[list(self.simplexes[index])]


def members_of(simplexes: Simplexes) -> Tensor:
    """Return simplexes as a matrix (S, K) of vertex numbers, padded with -1.

    >>> members_of(((0, 2), (1, 2, 3))).tolist()
    [[0, 2, -1], [1, 2, 3]]
    """
    most = max(map(len, simplexes))
    return torch.tensor([(*one, *[-1] * (most - len(one))) for one in simplexes])


def simplexes_in(members: Tensor) -> Simplexes:
    """Return the simplexes of a padded matrix (S, K).

    >>> simplexes_in(torch.tensor([[0, 2, -1], [1, 2, 3]]))
    ((0, 2), (1, 2, 3))
    """
    rows: list[list[int]] = members.tolist()
    return tuple(tuple(vertex for vertex in row if vertex >= 0) for row in rows)


def grow(vertices: Tensor, beside: Sequence[int], jitter: float, rng: torch.Generator) -> Tensor:
    """Return the vertices with one more, a small step away from the mean of those `beside` it.

    The published code starts at the mean of all vertices. There the volume is zero from the second
    connector on, so the new point is moved in a random direction: by `jitter` times the rms edge
    between the vertices `beside` it, or, if there is only one, times its norm.
    """
    fixed = vertices[list(beside)]
    center = fixed.mean(dim=0)
    if len(fixed) == 1:
        size = float(torch.linalg.vector_norm(center.double()))
    else:
        spread = torch.linalg.vector_norm(fixed - center, dim=1).double().square().sum()
        size = float((2 * spread / (len(fixed) - 1)).sqrt())
    draw = torch.randn(vertices.shape[1], generator=rng, device=rng.device, dtype=torch.float64)
    step = (jitter * size / torch.linalg.vector_norm(draw)) * draw
    return torch.cat([vertices, (center + step.to(vertices)).unsqueeze(0)])
