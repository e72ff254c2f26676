"""The loss of a network on labelled examples: cross-entropy per class label, or per token of a
sentence.

What is scored is a label: one per example, labels (N,) and logits (N, C), or one per target token,
labels (N, L) with `IGNORE` where a sentence is padded and logits (N, L, C). Means are over scored
labels, so a long sentence weighs more than a short one (the usual token-level loss of Vaswani et
al. 2017).
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORE = -100
"""The label of a position that is not scored; torch's own default."""


def summed_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy (nats) summed over scored labels, in the dtype of `logits`.

    With smoothing e the target is (1 - e) on the label plus e/C on every class (Szegedy et al.
    2016, section 7).
    """
    flat = logits.flatten(0, -2)
    return cross_entropy(
        flat,
        labels.flatten(),
        reduction="sum",
        label_smoothing=label_smoothing,
        ignore_index=IGNORE,
    )


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy (nats) averaged over scored labels."""
    flat = logits.flatten(0, -2)
    return cross_entropy(
        flat, labels.flatten(), label_smoothing=label_smoothing, ignore_index=IGNORE
    )


def num_scored(labels: Tensor) -> int:
    """Count the scored labels; waits for the device only where labels can be padding."""
    return labels.numel() if labels.dim() == 1 else int((labels != IGNORE).sum())


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Count, on the device, the scored labels that are the largest logit (a tie goes to the first
    class).
    """
    return (logits.argmax(dim=-1) == labels).sum()


def scored(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (M, C) and labels (M,) of the M scored positions only."""
    if labels.dim() == 1:
        return logits, labels
    there = labels != IGNORE
    return logits[there], labels[there]


def trimmed(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the padding that all sentence pairs of a batch share; anything else is returned as it is.

    `inputs` (N, 2, L), `labels` (N, L). No result changes: what is cut is never looked at.
    """
    if labels.dim() == 1:
        return inputs, labels
    used = int((inputs != 0).any(dim=0).any(dim=0).nonzero().max()) + 1
    return inputs[..., :used], labels[..., :used]
