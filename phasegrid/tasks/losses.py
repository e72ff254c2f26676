"""The loss of each scored label, from a network's outputs. It is trained and scored with the same
function.

Letters: M members, B scored labels of a batch, C classes.
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional

from phasegrid.tasks.batches import Batch

Loss: TypeAlias = Callable[[Tensor, Batch], Tensor]
"""From logits (M, B, C) and a batch to a loss of each label (M, B), in the dtype of the logits."""


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
