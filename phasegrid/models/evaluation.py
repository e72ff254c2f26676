"""Evaluate a network on a set: outputs, loss and accuracy, batch by batch, in eval mode.

Letters: N examples, K scored labels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from phasegrid.fallbacks import fall_back
from phasegrid.models.network_state import evaluating, outputs_of
from phasegrid.tasks.carrying import Reader
from phasegrid.tasks.operations import evaluation_batch
from phasegrid.tasks.scoring import CLASSIFICATION, Scores, Scoring

Sums = Callable[[Tensor, Tensor], Tensor]
"""From inputs and labels of a batch to the sum of losses and the number of right answers."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean loss, accuracy and error (in percent) of a network over `num` scored labels
    (examples, or the target tokens of sentence pairs).
    """

    loss: float
    accuracy_percent: float
    error_percent: float
    num: int


def evaluate(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    scoring: Scoring = CLASSIFICATION,
    batch_size: int | None = None,
    sums: Sums | None = None,
) -> Evaluation:
    """Return mean loss and accuracy of `module` in eval mode on `inputs` (N, ...) and their
    `labels`, by the given scoring.

    `sums`, if given, does the same as `sums_of` for a batch of the network, for labels of which
    none is padding.

    The logits are cast to float64 before the loss, which is summed in float64. A tie of the argmax
    goes to the first class. Modes and buffers are restored. Batches that do not fit into memory are
    halved.

    Raises:
        ValueError: if there are no examples.
        torch.OutOfMemoryError: if not even one example fits.
    """
    if len(inputs) == 0:
        raise ValueError("cannot evaluate on an empty set")
    while True:
        try:
            if sums is not None:
                return _evaluate_by(sums, module, inputs, labels, scoring, batch_size)
            return _evaluate(module, inputs, labels, scoring, batch_size)
        except torch.OutOfMemoryError as error:
            if batch_size == 1:
                raise
            fall_back("smaller batches were evaluated, because memory ran out", error)
            batch_size = min(batch_size or evaluation_batch(inputs), len(inputs)) // 2 or 1


def sums_of(module: nn.Module, scoring: Scoring, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return (2,) float64, on the device: the sum of the losses of a batch, and the number of
    labels whose logit is the largest.
    """
    found = scoring.score(outputs_of(module, inputs), inputs, labels)
    return torch.stack([found.losses.sum(), found.correct.sum().double()])


def scores(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    scoring: Scoring = CLASSIFICATION,
    batch_size: int | None = None,
) -> Iterator[Scores]:
    """Yield the scores of `module` in eval mode on a set, batch by batch; modes and buffers are
    restored at the end.
    """
    read = Reader(scoring.operations, module, partial(outputs_of, module))
    with evaluating(module):
        for some, target in scoring.batches(inputs, labels, itemsize_of(module), batch_size):
            yield scoring.score(read(some), some, target)
            read.turn()


def itemsize_of(module: nn.Module) -> int:
    """Return the bytes per number of a network: 4, as in float32, if it has no parameters."""
    return next(module.parameters(), torch.empty(0, dtype=torch.float32)).element_size()


def predict(module: nn.Module, inputs: Tensor, batch_size: int | None = None) -> Tensor:
    """Return the outputs (N, ...) of `module` in eval mode on `inputs` (N, ...); modes and buffers
    are restored.
    """
    size = batch_size or evaluation_batch(inputs)
    with evaluating(module):
        return torch.cat([outputs_of(module, batch) for batch in torch.split(inputs, size)])


def _evaluate_by(
    sums: Sums,
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    scoring: Scoring,
    batch_size: int | None,
) -> Evaluation:
    total = torch.zeros(2, dtype=torch.float64, device=inputs.device)
    with evaluating(module):
        for some, target in scoring.batches(inputs, labels, itemsize_of(module), batch_size):
            total += sums(some, target)
    loss, correct = total.tolist()
    return _mean(loss, correct, scoring.operations.num_scored(labels))


def _evaluate(
    module: nn.Module, inputs: Tensor, labels: Tensor, scoring: Scoring, batch_size: int | None
) -> Evaluation:
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    correct = torch.zeros((), dtype=torch.int64, device=inputs.device)
    num = 0
    for found in scores(module, inputs, labels, scoring, batch_size):
        loss += found.losses.sum()
        correct += found.correct.sum()
        num += len(found.labels)
    return _mean(float(loss), int(correct), num)


def _mean(loss: float, correct: float, num: int) -> Evaluation:
    accuracy = 100 * correct / num
    return Evaluation(loss / num, accuracy, 100 - accuracy, num)
