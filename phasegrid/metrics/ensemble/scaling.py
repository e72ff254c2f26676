"""Temperature scaling (Guo et al. 2017, section 4.2): divide the logits of a network by the T at
which its negative log-likelihood on held-out examples is least. The logits of an ensemble are the
logarithms of its mean probabilities (pool, then calibrate: Rahaman and Thiery 2021).

With b = 1/T, f(b) = mean_n(logsumexp(b z_n) - b z_n[y_n]) is convex in b, with the derivative
f'(b) = mean_n(sum_c p_nc z_nc - z_n[y_n]), p_n = softmax(b z_n). T is sought where f' changes its
sign, between `LOWEST` and `HIGHEST`. If f falls down to `LOWEST`, as it does if every example is
right, nothing can be fitted: T is 1. The argmax of a network stays.

Letters: M members, N examples, C classes.
"""

import math
from functools import reduce

import torch
from torch import Tensor

from phasegrid.tasks.losses import Criterion

LOWEST, HIGHEST = 1e-2, 1e2
"""The range of T."""

HALVINGS = 50
"""So many halvings of the range of log T leave 1e-14 of it: rounding of float64."""


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature of least negative log-likelihood of logits (N, C) and labels (N,), in
    float64; 1 if there is none above `LOWEST`, or none is better.

    >>> round(fitted_temperature(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])), 6)
    1.820478
    """
    z = logits.double()
    right = z.gather(1, labels.unsqueeze(1)).squeeze(1)
    low, high = (math.log(end) for end in (LOWEST, HIGHEST))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        p = (z * math.exp(-middle)).softmax(dim=1)
        too_sure = ((p * z).sum(dim=1) - right).mean() > 0  # f rises with b: T must rise
        low, high = (middle, high) if too_sure else (low, middle)
    found = math.exp((low + high) / 2)
    if found < (1 + 1e-9) * LOWEST:
        return 1.0
    better = _loss(z, labels, found) <= _loss(z, labels, 1.0)
    return found if better else 1.0


def mean_logits(logits: Tensor, objective: Criterion) -> Tensor:
    """Return the logits (N, C) of the mean prediction of members with logits (M, N, C), in
    float64.
    """
    total = reduce(objective.sum_of, map(objective.prediction, logits), None)
    assert total is not None
    return objective.mean_prediction(total, len(logits))


def _loss(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return torch.nn.functional.cross_entropy(z / temperature, labels)
