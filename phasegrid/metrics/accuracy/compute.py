"""Loss, accuracy and calibration on the training and on the test set, in eval mode.

Expected calibration error (Guo et al. 2017, equation 3): confidence is the largest softmax
probability; examples are put in B bins ((b - 1)/B, b/B], and ECE = sum_b (n_b / N) |accuracy_b -
mean confidence_b|.

Every scored label counts as one example: an image has one, a sentence pair one for each target
word, predicted from the source sentence and the true words before it (teacher forcing). So a long
sentence weighs more than a short one. The loss is that of the trial's objective; if its outputs are
not probabilities, there is no calibration error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy import AccuracyArgs
from phasegrid.models.evaluation import scores
from phasegrid.tasks.scoring import Scores, Scoring


@dataclass(frozen=True, slots=True)
class Quality:
    """Mean loss, accuracy in percent, and expected calibration error in [0, 1] (None if the
    objective knows no probabilities), of `num` labels.
    """

    loss: float
    accuracy_percent: float
    ece: float | None
    num: int


def compute(
    models: Sequence[nn.Module], data: Dataset, _rng: torch.Generator, **args: object
) -> dict[str, float | int | None]:
    """Measure one model on the whole of both sets; `args` are the fields of `AccuracyArgs`. Exact;
    nothing is drawn.

    Raises:
        MetricError: if there is not one model, or a loss is not finite.
    """
    settings = AccuracyArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if len(models) != 1:
        raise MetricError(f"accuracy is measured on one model, got {len(models)}")
    row: dict[str, float | int | None] = {}
    for name, inputs, labels in (
        ("train", data.train_inputs, data.train_labels),
        ("test", data.test_inputs, data.test_labels),
    ):
        quality = judge(models[0], inputs, labels, data.scoring, settings.ece_bins)
        if not math.isfinite(quality.loss):
            raise MetricError(
                f"accuracy: the {name} loss is {quality.loss}; the network's outputs are not finite"
            )
        row[f"{name}_loss"] = quality.loss
        row[f"{name}_accuracy_percent"] = quality.accuracy_percent
        row[f"{name}_ece"] = quality.ece
        row[f"num_{name}"] = quality.num
    return row


def judge(
    module: nn.Module, inputs: Tensor, labels: Tensor, scoring: Scoring, ece_bins: int
) -> Quality:
    """Compare the outputs of `module` on a set with its labels, in float64. A tie of the argmax
    goes to the first class.

    The logits of the whole set are never held: three numbers a label are kept.
    """
    found = [kept_of(some) for some in scores(module, inputs, labels, scoring)]
    losses, correct, confidence = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Quality(
        loss=float(losses.mean()),
        accuracy_percent=100 * int(correct.sum()) / len(correct),
        ece=calibration_error(confidence, correct, ece_bins)
        if scoring.objective.probabilities
        else None,
        num=len(correct),
    )


def kept_of(found: Scores) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses, correctness and confidences of a batch."""
    confidence = found.logits.double().softmax(dim=1).amax(dim=1)
    return found.losses, found.correct, confidence


def calibration_error(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """Return the expected calibration error of `confidence` (N,) in [0, 1] against `correct` (N,)
    bool.

    `bins` equal-width bins, each closed on the right (Guo et al. 2017, section 2).

    >>> calibration_error(torch.tensor([0.75, 0.75]), torch.tensor([True, False]), 15)
    0.25
    """
    place = _bin_of(confidence, bins)
    excess = correct.double() - confidence.double()
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    return float(gaps.index_add_(0, place, excess).abs().sum()) / len(confidence)


def confidence_bins(
    confidence: Tensor, correct: Tensor, bins: int
) -> dict[str, list[float | None]]:
    """Return, for each bin of `calibration_error`, the mean ``confidence`` and the ``accuracy`` of
    its labels, null where it has none, and their ``share`` of all: a reliability diagram.

    >>> confidence_bins(torch.tensor([0.75, 0.75]), torch.tensor([True, False]), 2)
    {'confidence': [None, 0.75], 'accuracy': [None, 0.5], 'share': [0.0, 1.0]}
    """
    place = _bin_of(confidence, bins)
    nothing = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    counts, sure, right = (
        nothing.index_add(0, place, values.double()).tolist()
        for values in (torch.ones_like(confidence), confidence, correct)
    )
    means = {"confidence": sure, "accuracy": right}
    found: dict[str, list[float | None]] = {
        name: [total / num if num else None for total, num in zip(totals, counts, strict=True)]
        for name, totals in means.items()
    }
    return {**found, "share": [num / len(confidence) for num in counts]}


def _bin_of(confidence: Tensor, bins: int) -> Tensor:
    """Return the number of the bin of each confidence (N,); a bin is closed on the right."""
    return (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
