"""Loss, accuracy and calibration on the training and on the test set, in eval mode.

Expected calibration error (Guo et al. 2017, equation 3): confidence is the largest softmax
probability; examples are put in B bins ((b - 1)/B, b/B], and ECE = sum_b (n_b / N) |accuracy_b -
mean confidence_b|.

For sentence pairs every scored target token is such an example, predicted from the source sentence
and the true words before it (teacher forcing): loss, accuracy and calibration are means over
tokens, so a long sentence weighs more than a short one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy import AccuracyArgs
from phasegrid.metrics.network.outputs import predict, sentence_batches, sentence_lengths
from phasegrid.tasks.losses import num_scored, scored, trimmed


@dataclass(frozen=True, slots=True)
class Quality:
    """Mean cross-entropy in nats, accuracy in percent, expected calibration error in [0, 1]."""

    loss: float
    accuracy_percent: float
    ece: float


def compute(
    models: Sequence[nn.Module], data: Dataset, _rng: torch.Generator, **args: object
) -> dict[str, float | int]:
    """Measure one model on both sets, whole; `args` are the fields of `AccuracyArgs`. Exact;
    nothing is drawn.

    Raises:
        MetricError: if there is not one model, or a loss is not finite.
    """
    settings = AccuracyArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1:
        raise MetricError(f"accuracy is that of one model, got {len(models)}")
    row: dict[str, float | int] = {}
    for name, inputs, labels in (
        ("train", data.train_inputs, data.train_labels),
        ("test", data.test_inputs, data.test_labels),
    ):
        if data.tokens is None:
            quality = judge(predict(models[0], inputs), labels, settings.ece_bins)
        else:
            quality = judge_sentences(
                models[0], inputs, labels, data.tokens.target_vocabulary, settings.ece_bins
            )
        if not math.isfinite(quality.loss):
            raise MetricError(
                f"accuracy: the {name} loss is {quality.loss}; the network's outputs are not finite"
            )
        row[f"{name}_loss"] = quality.loss
        row[f"{name}_accuracy_percent"] = quality.accuracy_percent
        row[f"{name}_ece"] = quality.ece
        row[f"num_{name}"] = num_scored(labels)
    return row


def judge(logits: Tensor, labels: Tensor, ece_bins: int) -> Quality:
    """Compare `logits` (N, C) with `labels` (N,), in float64. An argmax tie goes to the first
    class.
    """
    logits = logits.double()
    correct = logits.argmax(dim=1) == labels
    confidence = logits.softmax(dim=1).amax(dim=1)
    return Quality(
        loss=float(cross_entropy(logits, labels)),
        accuracy_percent=100 * int(correct.sum()) / len(labels),
        ece=calibration_error(confidence, correct, ece_bins),
    )


def judge_sentences(
    module: nn.Module, inputs: Tensor, labels: Tensor, vocabulary: int, ece_bins: int
) -> Quality:
    """Compare what `module` says about `inputs` (N, 2, L) with the scored ones of `labels` (N, L),
    in float64.

    The logits (N, L, V) are never whole: those of a batch take at most `outputs.LOGIT_BYTES` in the
    network's dtype (or what one pair takes), their log-probabilities at scored positions as much
    again in float64. Kept are three numbers a token.
    """
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    confidence: list[Tensor] = []
    bytes_per_logit = next(module.parameters()).element_size()
    for batch in sentence_batches(sentence_lengths(inputs), vocabulary, bytes_per_logit):
        some, target = trimmed(inputs[batch], labels[batch])
        logits, target = scored(predict(module, some, len(some)), target)
        log_p = logits.double().log_softmax(dim=1)
        losses.append(nll_loss(log_p, target, reduction="none"))
        correct.append(logits.argmax(dim=1) == target)
        confidence.append(log_p.amax(dim=1).exp())
    right = torch.cat(correct)
    return Quality(
        loss=float(torch.cat(losses).mean()),
        accuracy_percent=100 * int(right.sum()) / len(right),
        ece=calibration_error(torch.cat(confidence), right, ece_bins),
    )


def calibration_error(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """Return the expected calibration error of `confidence` (N,) in [0, 1] against `correct` (N,)
    bool.

    `bins` equal-width bins, each closed on the right (Guo et al. 2017, section 2).

    >>> calibration_error(torch.tensor([0.75, 0.75]), torch.tensor([True, False]), 15)
    0.25
    """
    place = (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    excess = correct.double() - confidence.double()
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    return float(gaps.index_add_(0, place, excess).abs().sum()) / len(confidence)
