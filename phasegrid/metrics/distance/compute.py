"""How far apart two trained networks are in weight space.

|theta - theta'|_2 and the cosine of the angle between theta and theta', over the trainable
parameters: BatchNorm affine included, running statistics not, as in the published code of Yang et
al. 2021. Hidden units are not matched: two networks that differ by a permutation of units are far
apart.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.models.weights import parameters_vector

Row = dict[str, float | int | None]


def compute(
    models: Sequence[nn.Module], data: Dataset, rng: torch.Generator, **args: object
) -> Row:
    """Measure two models: `compute_many` with one pair."""
    return compute_many(models, [tuple(range(len(models)))], data, [rng], **args)[0][0]


def compute_many(
    models: Sequence[nn.Module],
    groups: Sequence[tuple[int, ...]],
    _data: Dataset,
    _rngs: Sequence[torch.Generator],
    **_args: object,
) -> list[list[Row]]:
    """Measure pairs of `models`, one row each; sums are in float64, differences in the networks'
    dtype.

    Raises:
        MetricError: if a group is not a pair, the models differ in size, or a number is not finite.
    """
    vectors = {i: parameters_vector(models[i]) for i in {i for group in groups for i in group}}
    rows = []
    for group in groups:
        if len(group) != 2:
            raise MetricError(f"distance is between two models, got {len(group)}")
        rows.append([_compare(vectors[group[0]], vectors[group[1]])])
    return rows


def _compare(a: Tensor, b: Tensor) -> Row:
    if a.shape != b.shape:
        raise MetricError(
            f"distance: the models have {len(a)} and {len(b)} trainable parameters; only"
            f" networks of the same architecture can be compared in weight space"
        )
    a, b = a.double(), b.double()
    distance = float(torch.linalg.vector_norm(a - b))
    if not math.isfinite(distance):
        raise MetricError(
            f"distance: the result is {distance}; a model has weights that are not finite"
        )
    return {
        "l2_distance": distance,
        "cosine_similarity": _cosine(a, b),
        "num_parameters": len(a),
    }


def _cosine(a: Tensor, b: Tensor) -> float | None:
    """Return the cosine of the angle; None if a vector is zero."""
    lengths = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    return min(1.0, max(-1.0, float(a @ b) / lengths)) if lengths > 0 else None
