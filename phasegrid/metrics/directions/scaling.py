"""Scale directions to the size of the trained weights, and compare them.

Letters: P trainable parameters, D directions.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from phasegrid.errors import MetricError
from phasegrid.metrics.directions.names import parsed
from phasegrid.models.weights import ParameterSlice

_CHUNK = 1 << 20  # columns turned to float64 at a time


Scaling: TypeAlias = Literal["raw", "norm", "layer", "filter"]

_TO_NORM = ("gaussian", "positive", "negative", "component")
"""The kinds of directions whose own length means nothing."""


def usual_scaling(name: str) -> Scaling:
    """Return how a direction with this name is scaled where nothing else is asked.

    >>> usual_scaling("gaussian_0"), usual_scaling("to_1")
    ('norm', 'raw')
    """
    kind = parsed(name)
    return "norm" if kind is not None and kind[0] in _TO_NORM else "raw"


def normalise(
    directions: Tensor,
    weights: Tensor,
    slices: Sequence[ParameterSlice],
    how: Scaling,
    *,
    keep_biases: bool,
) -> Tensor:
    """Scale every direction (D, P) to the size of `weights` (P,).

    ``raw``: not at all. ``norm``: as a whole, d <- d |w| / |d| (Xu et al. 2024, section 2.1).
    ``layer``, ``filter``: each parameter, or each filter, is scaled to the norm of that of the
    weights, d_k <- d_k |w_k| / |d_k| (Li et al. 2018, section 4). A filter gives one output of a
    layer: one first index of a parameter with two dimensions or more; a parameter of one dimension
    (biases, BatchNorm) is one. Unless they are kept, these become zero in every direction, before
    anything is scaled (the published code of Li et al. with ``ignore=biasbn``, which adds 1e-10 to
    |d_k|; here what has norm 0 stays 0 instead).

    Raises:
        MetricError: if a direction becomes zero.
    """
    scaled = directions.clone()
    for part in slices:
        here = scaled[:, part.start : part.stop]
        if len(part.shape) <= 1 and not keep_biases:
            here.zero_()
        elif how in ("layer", "filter"):
            rows = part.shape[0] if how == "filter" and len(part.shape) > 1 else 1
            filters = weights[part.start : part.stop].view(rows, -1)
            wanted = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
            here.copy_(_to_norm(here.reshape(len(scaled), *filters.shape), wanted).flatten(1))
    if how == "norm":
        scaled = _to_norm(scaled, torch.linalg.vector_norm(weights))
    if not bool((scaled != 0).any(dim=1).all()):
        raise MetricError(
            f"normalize: {how} makes a direction zero: it is zero itself, the weights are all zero,"
            " or no parameter has two dimensions"
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
