"""Project a complex onto the principal axes of its vertices.

With the vertices v_i, their mean m, and the Gram matrix G_ij = <v_i - m, v_j - m> = U diag(l) U^T,
the vertices have the coordinates U diag(sqrt(l)) on the principal axes: distances between them are
those in weight space, and each axis holds the share l_k / sum(l) of the squared distances from the
mean. A point with weights a has the coordinates a U diag(sqrt(l)), because they sum to 1.

Letters: V vertices, P parameters, A axes.
"""

import torch
from torch import Tensor

from phasegrid.metrics.connectivity.curves import edge_gram

AXES = 3
RANK = 1e-12
"""The least l_k, as a share of their sum, that is not rounding in the Gram matrix."""


def principal_axes(vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates (V, A) of the vertices (V, P) on their first principal axes, and the
    shares (A,) of these axes, in float64 on the CPU. There are three axes, or fewer if the vertices
    lie in a plane or on a line.

    The largest coordinate on each axis is positive.
    """
    gram = torch.zeros(len(vertices), len(vertices), dtype=torch.float64)
    gram[1:, 1:] = edge_gram(vertices).cpu()
    centering = torch.eye(len(vertices), dtype=torch.float64) - 1 / len(vertices)
    values, vectors = torch.linalg.eigh(centering @ gram @ centering)
    shares = (values / values.sum()).flip(0)[:AXES]
    kept = int((shares > RANK).sum())
    places = vectors.flip(1)[:, :kept] * values.flip(0)[:kept].sqrt()
    largest = places.gather(0, places.abs().argmax(dim=0, keepdim=True))
    return places * largest.sign(), shares[:kept]
