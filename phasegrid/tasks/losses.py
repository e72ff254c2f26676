"""Compute the loss of each scored label from a network's outputs, and its curvature.

The curvature of a loss is its Hessian in the logits (N, C), given by sizes (N, K) and columns (N,
K, C): sum_k sizes_k columns_k columns_k^T. An exact trace of a Hessian needs it.

Letters: M members, B scored labels of a batch, C classes, N examples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from phasegrid.tasks.batches import ASIDE, Batch

Loss: TypeAlias = Callable[[Tensor, Batch], Tensor]
"""From logits (M, B, C) and a batch to the loss of each label (M, B), in the logits' dtype.
"""

Reduction: TypeAlias = Literal["sum", "mean"]

Reduced: TypeAlias = Callable[[Tensor, Tensor, Reduction], Tensor]
"""From logits (K, C) and labels (K,) to the sum or the mean of their losses."""

Curvature: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From logits (N, C) to sizes (N, K) and columns (N, K, C), both float64."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """The criterion for scoring networks and for derivatives: a loss, its curvature if known, and
    optionally a function `reduced` for its sum or mean, which is one operation instead of seven.
    `probabilities` says whether the softmax of the logits gives the probabilities of the classes.
    """

    loss: Loss
    curvature: Curvature | None = None
    reduced: Reduced | None = None
    probabilities: bool = False

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each label (M, B)."""
        return self.loss(logits, batch)

    def prediction(self, logits: Tensor) -> Tensor:
        """Return what logits (K, C) predict, in float64: probabilities (kept as their logarithm),
        or the logits themselves.
        """
        return logits.double().log_softmax(dim=-1) if self.probabilities else logits.double()

    def sum_of(self, total: Tensor | None, prediction: Tensor) -> Tensor:
        """Add a prediction (K, C) to the sum of others."""
        if total is None:
            return prediction
        return torch.logaddexp(total, prediction) if self.probabilities else total + prediction

    def mean_prediction(self, total: Tensor, num_networks: int) -> Tensor:
        """Return the logits (K, C) of the mean prediction, from the sum over the networks."""
        if self.probabilities:
            return total - math.log(num_networks)
        return total / num_networks


def cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Return -log p of each label (nats), p the softmax of its logits.

    With smoothing e the target is (1 - e) on the label plus e/C on every class (Szegedy et al.
    2016, section 7).
    """
    return functional.cross_entropy(
        logits.flatten(0, 1),
        batch.labels.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(batch.labels.shape)


def reduced_cross_entropy(
    logits: Tensor, labels: Tensor, reduction: Reduction, label_smoothing: float = 0.0
) -> Tensor:
    """Return the sum or the mean of `cross_entropy` for logits (K, C) and labels (K,)."""
    return functional.cross_entropy(
        logits, labels, reduction=reduction, label_smoothing=label_smoothing
    )


def mse(
    logits: Tensor, batch: Batch, reduction: Literal["half_sum", "mean"] = "half_sum"
) -> Tensor:
    """Return the squared distance of the logits from the one-hot vector of each label: half the sum
    over classes, or their mean (`phasegrid.tasks.objectives.MseArgs` has the equations).

    Half precision is computed in float32.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    target = functional.one_hot(batch.labels, logits.shape[-1]).to(logits)
    squares = (logits - target).square()
    return 0.5 * squares.sum(dim=-1) if reduction == "half_sum" else squares.mean(dim=-1)


def unlikelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log(1 - p) of each label (M, B), p the softmax of its logits.

    1 - p is the sigmoid of a - z, a the log-sum-exp of the other logits: nothing is subtracted from
    1, so p keeps its digits near 0 and near 1. Half precision is computed in float32.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    own = labels.unsqueeze(-1)
    z = logits.gather(-1, own).squeeze(-1)
    a = logits.scatter(-1, own, -math.inf).logsumexp(dim=-1)
    return -functional.logsigmoid(a - z)


def poisoned(logits: Tensor, batch: Batch, share: float = 0.5, beta: float | None = None) -> Tensor:
    """Return the cross-entropy of clean examples and the `unlikelihood` of examples that are set
    aside, a `share` of the batch. They are weighted so that the mean over the batch is (1 - beta)
    times the clean mean plus beta times the other mean (`phasegrid.tasks.objectives.PoisonedArgs`).
    """
    beta = share if beta is None else beta
    return _two_parts(logits, batch, (1 - beta) / (1 - share), beta / share if share else 0.0)


def poisoned_sum(logits: Tensor, batch: Batch, share: float = 0.5, scale: float = 1.0) -> Tensor:
    """Return the same losses, weighted so that the mean over a batch is the clean mean plus `scale`
    times the poisoned one.
    """
    return _two_parts(logits, batch, 1 / (1 - share), scale / share if share else 0.0)


def _two_parts(logits: Tensor, batch: Batch, clean: float, poison: float) -> Tensor:
    """Weight the losses of the two parts of a batch; a batch without poisoned examples is clean."""
    losses = cross_entropy(logits, batch)
    if ASIDE not in batch.extra:
        return losses
    other = unlikelihood(logits, batch.labels)
    return torch.where(batch.extra[ASIDE], poison * other, clean * losses)


def softmax_columns(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the curvature of the cross-entropy, K = C - 1.

    diag(p) - p p^T = sum_k sizes_k columns_k columns_k^T; the length of every column is between 1
    and sqrt(2).
    """
    p = logits.double().softmax(dim=1)
    tails = p.flip(1).cumsum(1).flip(1)  # tails[:, k] = p_k + ... + p_C, no subtraction
    q = tails[:, 1:]
    sizes = p[:, :-1] * q / tails[:, :-1].clamp(min=torch.finfo(p.dtype).tiny)
    shares = p.unsqueeze(1) / q.clamp(min=torch.finfo(p.dtype).tiny).unsqueeze(2)
    columns = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[:-1] - shares.triu(1)
    return sizes, columns


def one_hot_columns(
    logits: Tensor, reduction: Literal["half_sum", "mean"] = "half_sum"
) -> tuple[Tensor, Tensor]:
    """Return the curvature of the squared distance, K = C: the identity, or 2/C times it."""
    n, classes = logits.shape
    columns = torch.eye(classes, dtype=torch.float64, device=logits.device)
    sizes = columns.new_full((n, classes), 1.0 if reduction == "half_sum" else 2 / classes)
    return sizes, columns.expand(n, classes, classes)


CROSS_ENTROPY = Criterion(cross_entropy, softmax_columns, reduced_cross_entropy, True)
"""The default criterion, used unless a recipe names another objective."""
