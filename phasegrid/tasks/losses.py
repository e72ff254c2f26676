"""The loss of each scored label, from a network's outputs; and its curvature there.

The curvature of a loss is its Hessian in the logits (N, C), as sizes (N, K) and columns (N, K, C):
sum_k sizes_k columns_k columns_k^T. The trace of a Hessian is exact where it is known.

Letters: M members, B scored labels of a batch, C classes, N examples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from phasegrid.tasks.batches import Batch

Loss: TypeAlias = Callable[[Tensor, Batch], Tensor]
"""From logits (M, B, C) and a batch to a loss of each label (M, B), in the dtype of the logits."""

Curvature: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From logits (N, C) to sizes (N, K) and columns (N, K, C), both float64."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """What networks are scored and differentiated by: a loss, and its curvature if that is
    known.
    """

    loss: Loss
    curvature: Curvature | None = None

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each label (M, B)."""
        return self.loss(logits, batch)


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


def mse(
    logits: Tensor, batch: Batch, reduction: Literal["half_sum", "mean"] = "half_sum"
) -> Tensor:
    """Return the squared distance of the logits from the one-hot vector of each label: half the sum
    over classes, or their mean (`phasegrid.tasks.objectives.MseArgs` has the sources).

    Half precision is computed in float32.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    target = functional.one_hot(batch.labels, logits.shape[-1]).to(logits)
    squares = (logits - target).square()
    return 0.5 * squares.sum(dim=-1) if reduction == "half_sum" else squares.mean(dim=-1)


def softmax_columns(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the curvature of the cross-entropy, K = C - 1.

    diag(p) - p p^T = sum_k sizes_k columns_k columns_k^T, every column of length between 1 and
    sqrt(2).
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
    """Return the curvature of the squared distance, K = C: the identity, or 2/C of it."""
    n, classes = logits.shape
    columns = torch.eye(classes, dtype=torch.float64, device=logits.device)
    sizes = columns.new_full((n, classes), 1.0 if reduction == "half_sum" else 2 / classes)
    return sizes, columns.expand(n, classes, classes)


CROSS_ENTROPY = Criterion(cross_entropy, softmax_columns)
"""What networks are scored by unless their recipe says otherwise."""
