"""Scale directions to the size of the trained weights, and compare them.

Letters: P trainable parameters, D directions.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.models.weights import ParameterSlice

_CHUNK = 1 << 20  # columns turned to float64 at a time


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


def inner_products(vectors: Tensor) -> Tensor:
    """Return the inner products (D, D) of vectors (D, P), summed in float64, on the CPU."""
    found = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=vectors.device)
    for start in range(0, vectors.shape[1], _CHUNK):
        columns = vectors[:, start : start + _CHUNK].double()
        found += columns @ columns.t()
    return found.cpu()


def cosines(products: Tensor) -> Tensor:
    """Return the cosines (D, D) of the angles between vectors with these inner products (D, D); NaN
    where one of both is zero.

    >>> cosines(torch.tensor([[4.0, 2.0], [2.0, 4.0]], dtype=torch.float64))[0].tolist()
    [1.0, 0.5]
    """
    norms = products.diagonal().sqrt()
    return products / torch.outer(norms, norms)


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of the angle between two vectors (P,), in float64."""
    a, b = a.double(), b.double()
    return float(a @ b / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)))


def _to_norm(vectors: Tensor, norm: Tensor) -> Tensor:
    """Scale the last dimension of `vectors` to `norm`; zero stays zero."""
    own = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(own > 0, vectors * (norm / own), 0.0)
