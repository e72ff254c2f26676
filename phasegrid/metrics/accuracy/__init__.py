"""Loss, accuracy and calibration of a trained network."""

from dataclasses import dataclass

from phasegrid.declare import UNIT_OF_LOSS, Column, Metric
from phasegrid.estimates import evaluation, evaluation_bytes
from phasegrid.metrics.ranges import Count


@dataclass(frozen=True, slots=True)
class AccuracyArgs:
    """The number `ece_bins` of equal-width confidence bins (15: Guo et al. 2017).

    For sentence pairs, all numbers are over scored target tokens, predicted from the true words
    before them: mean token cross-entropy, token accuracy, and the calibration of the predicted
    words. BLEU is a separate metric.
    """

    ece_bins: Count = 15


ACCURACY = Metric(
    over="trial",
    args=AccuracyArgs,
    compute="phasegrid.metrics.accuracy.compute:compute",
    label="Accuracy",
    cost=lambda job: evaluation(job.work),
    memory=lambda job: evaluation_bytes(job.work),
    columns=(
        Column(
            "train_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss on the training set, eval mode",
            role="detail",
        ),
        Column("train_accuracy_percent", "float64", "%", "training accuracy", role="detail"),
        Column(
            "train_ece",
            "float64",
            "",
            "expected calibration error on the training set, in [0, 1]",
            role="detail",
        ),
        Column(
            "test_loss",
            "float64",
            UNIT_OF_LOSS,
            "mean loss on the test set, eval mode",
            role="detail",
        ),
        Column("test_accuracy_percent", "float64", "%", "test accuracy", role="detail"),
        Column(
            "test_ece",
            "float64",
            "",
            "expected calibration error on the test set, in [0, 1]",
            label="test calibration error",
            better="lower",
        ),
        Column(
            "num_train",
            "int64",
            "labels",
            "training labels scored: one per example, or the target tokens of sentence pairs",
        ),
        Column("num_test", "int64", "labels", "test labels scored"),
    ),
)
