"""Compute loss and accuracy of outputs, label by label, for any task and objective.

Letters: N examples, K scored labels, C classes, M members.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from phasegrid.tasks.batches import Batch
from phasegrid.tasks.losses import CROSS_ENTROPY, Criterion
from phasegrid.tasks.operations import Operations, operations_of


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of outputs: the `losses` (K,) of scored labels, and `correct` (K,), whether each
    label has the largest logit (a tie goes to the first class). `logits` (K, C), `labels` (K,).
    """

    losses: Tensor
    correct: Tensor
    logits: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a network is scored: the task of the data, their number of classes, and the objective's
    loss.
    """

    task: str = "classification"
    num_classes: int = 0
    objective: Criterion = CROSS_ENTROPY

    @property
    def operations(self) -> Operations:
        """The operations of the task."""
        return operations_of(self.task)

    def batches(
        self, inputs: Tensor, labels: Tensor, itemsize: int, batch_size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut a set into batches that fit into memory, with at most `batch_size` examples, for a
        network whose numbers have this many bytes.
        """
        operations = self.operations
        for chunk in operations.cut(inputs, self.num_classes, itemsize, batch_size):
            yield operations.trim(inputs[chunk], labels[chunk])

    def score(self, outputs: Tensor, inputs: Tensor, labels: Tensor) -> Scores:
        """Score the outputs of a network on a batch; losses are taken in float64."""
        logits, labels = self.operations.scored(outputs.unsqueeze(0), labels.unsqueeze(0))
        return self.score_logits(logits[0], inputs, labels[0])

    def score_logits(self, logits: Tensor, inputs: Tensor, labels: Tensor) -> Scores:
        """Score the logits (K, C) of scored `labels` (K,); losses are taken in float64."""
        losses = self.losses(logits, inputs, labels)
        return Scores(losses, logits.argmax(dim=-1) == labels, logits, labels)

    def losses(self, logits: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (K,) of the logits (K, C) of scored `labels` (K,), in float64."""
        batch = Batch(inputs.unsqueeze(0), labels.unsqueeze(0))
        return self.objective(logits.double().unsqueeze(0), batch)[0]

    def total(self, outputs: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the differentiable sum of the losses of scored labels, in float64."""
        reduced = self.objective.reduced
        if reduced is not None and labels.dim() == 1:
            return reduced(outputs.double(), labels, "sum")
        return self.score(outputs, inputs, labels).losses.sum()

    def mean(
        self,
        outputs: Tensor,
        inputs: Tensor,
        labels: Tensor,
        extra: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the differentiable mean loss over scored labels, in the dtype of the outputs;
        `extra` is that of the batch, for objectives that read it. If no label can be padding, it
        does not wait for the device.
        """
        reduced = self.objective.reduced
        if reduced is not None and labels.dim() == 1:  # one label per example, no padding
            return reduced(outputs, labels, "mean")
        logits, flat, there = self.operations.flat(outputs.unsqueeze(0), labels.unsqueeze(0))
        losses = self.objective(logits, Batch(inputs.unsqueeze(0), flat, extra or {}))
        return losses.mean() if there is None else losses.where(there, 0).sum() / there.sum()

    def fault(self, outputs: Tensor, labels: Tensor) -> str | None:
        """Say what is wrong with the shape of a network's outputs; None if it fits the labels."""
        if outputs.shape[:-1] == labels.shape:
            return None
        return (
            f"the network maps {len(labels)} examples with labels of shape {tuple(labels.shape)} to"
            f" outputs of shape {tuple(outputs.shape)}; the loss needs the shape of the labels and"
            " one more, of classes"
        )


CLASSIFICATION = Scoring()
"""Cross-entropy of one label for each example."""


def training_losses(
    operations: Operations, objective: Criterion, logits: Tensor, batch: Batch
) -> Tensor:
    """Return the loss of a training batch with logits (M, B, ..., C), to be summed: the losses (M,
    B') of its labels, 0 for labels that are not scored; or their sum, if one operation gives it.
    """
    flat, labels, there = operations.flat(logits, batch.labels)
    if there is None and objective.reduced is not None:
        return objective.reduced(flat.flatten(0, 1), labels.flatten(), "sum")
    scored = batch if labels is batch.labels else replace(batch, labels=labels)
    losses = objective(flat, scored)
    return losses if there is None else losses.where(there, 0)
