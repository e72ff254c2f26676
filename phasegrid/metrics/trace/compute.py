"""The way of a training, as figure 5 of Garipov et al. 2018 shows it.

For networks w_0, w_1, ... in order: the test loss and error of each, the distance |w_i - w_0|_2 and
the step |w_i - w_(i-1)|_2 over the trainable parameters (BatchNorm affine included, running
statistics not). Networks are taken as they were left: BatchNorm is not refreshed.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.models.evaluation import scores
from phasegrid.models.weights import parameters_vector

Row = dict[str, float | list[float]]


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    _rng: torch.Generator,
    moments: Sequence[tuple[float, float]],
    **_args: object,
) -> Row:
    """Return the way through `models`; `moments` are the epochs done and the learning rate of each.
    Exact: nothing is drawn; sums are in float64, differences in the networks' dtype.

    Raises:
        MetricError: if there are fewer than two networks.
    """
    if len(models) < 2:
        raise MetricError(f"trace needs two networks or more, got {len(models)}")
    vectors = [parameters_vector(models[index]).clone() for index in range(len(models))]
    quality = [_judge(models[index], data) for index in range(len(models))]
    steps = [_apart(a, b) for a, b in pairwise(vectors)]
    errors = [error for _, error in quality]
    return {
        "after_epochs": [epochs for epochs, _ in moments],
        "lr": [lr for _, lr in moments],
        "test_loss": [loss for loss, _ in quality],
        "test_error_percent": errors,
        "distance": [_apart(vectors[0], vector) for vector in vectors],
        "steps": steps,
        "mean_step": sum(steps) / len(steps),
        "mean_test_error_percent": sum(errors) / len(errors),
    }


def _apart(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm((a - b).double()))


def _judge(module: nn.Module, data: Dataset) -> tuple[float, float]:
    """Return the mean test loss, and the test error in percent."""
    found = [
        (some.losses, some.correct)
        for some in scores(module, data.test_inputs, data.test_labels, data.scoring)
    ]
    losses, correct = (torch.cat(parts) for parts in zip(*found, strict=True))
    return float(losses.mean()), 100 - 100 * int(correct.sum()) / len(correct)
