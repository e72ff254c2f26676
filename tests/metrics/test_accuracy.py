"""Loss, accuracy and calibration against loops and known values."""

import math
from dataclasses import replace

import pytest
import torch
from oracles import expected_calibration_error
from point_support import dataset, generator, mlp, seeded
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy import ACCURACY
from phasegrid.metrics.accuracy.compute import Quality, calibration_error, compute, judge
from phasegrid.models.evaluation import evaluate
from phasegrid.tasks.losses import Criterion, mse
from phasegrid.tasks.scoring import Scoring


def judge_logits(logits: Tensor, labels: Tensor, bins: int) -> Quality:
    return judge(nn.Identity(), logits, labels, Scoring(), bins)


def test_the_row_is_that_of_weights_evaluate() -> None:
    rng = generator(0)
    inputs = torch.randn(21, 4, generator=rng, dtype=torch.float64)
    data = dataset(inputs, torch.randint(0, 3, (21,), generator=rng))
    module = seeded(mlp).train()
    row = compute([module], data, generator(0), ece_bins=15)
    assert set(row) == {column.name for column in ACCURACY.columns}
    train = evaluate(module, data.train_inputs, data.train_labels)
    test = evaluate(module, data.test_inputs, data.test_labels)
    assert row["train_loss"] == pytest.approx(train.loss, rel=1e-14)
    assert row["train_accuracy_percent"] == train.accuracy_percent
    assert row["test_loss"] == pytest.approx(test.loss, rel=1e-14)
    assert row["test_accuracy_percent"] == test.accuracy_percent
    assert (row["num_train"], row["num_test"]) == (21, 10)
    assert module.training


def test_outputs_that_are_no_probabilities_have_no_calibration_error() -> None:
    rng = generator(0)
    data = dataset(torch.randn(21, 4, generator=rng), torch.randint(0, 3, (21,), generator=rng))
    row = compute([seeded(mlp).float()], replace(data, objective=Criterion(mse)), generator(0))
    assert row["train_ece"] is row["test_ece"] is None
    assert row["test_loss"] is not None


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_is_that_of_the_loop_over_bins(bins: int) -> None:
    rng = generator(bins)
    logits = 2 * torch.randn(300, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 4, (300,), generator=rng)
    expected = expected_calibration_error(logits.softmax(1).tolist(), labels.tolist(), bins)
    assert judge_logits(logits, labels, bins).ece == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(bins: int) -> None:
    rng = generator(bins)
    logits = 2 * torch.randn(300, 10, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 10, (300,), generator=rng)
    expected = multiclass_calibration_error(
        logits.softmax(1), labels, num_classes=10, n_bins=bins, norm="l1"
    )
    # It sums in float32.
    assert judge_logits(logits, labels, bins).ece == pytest.approx(float(expected), abs=1e-6)


def test_calibration_error_of_known_cases() -> None:
    yes, no = torch.tensor([True]), torch.tensor([False])
    half = torch.tensor([0.5, 0.5])
    assert calibration_error(half, torch.tensor([True, False]), 15) == 0
    assert calibration_error(torch.tensor([1.0]), yes, 15) == 0
    assert calibration_error(torch.tensor([1.0]), no, 15) == 1
    assert calibration_error(torch.tensor([0.25]), yes, 10) == 0.75
    # Bins are closed on the right: 0.5 and 0.4 share (0, 0.5] of two bins, 0.6 does not.
    together = calibration_error(torch.tensor([0.5, 0.4]).double(), torch.tensor([True, False]), 2)
    apart = calibration_error(torch.tensor([0.6, 0.4]).double(), torch.tensor([True, False]), 2)
    assert together == pytest.approx(0.05)
    assert apart == pytest.approx(0.4)


def test_quality_does_not_depend_on_the_order_of_examples_nor_of_classes() -> None:
    rng = generator(5)
    logits = torch.randn(50, 3, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 3, (50,), generator=rng)
    order, classes = torch.randperm(50, generator=rng), torch.tensor([2, 0, 1])
    plain = judge_logits(logits, labels, 15)
    for other in (
        judge_logits(logits[order], labels[order], 15),
        judge_logits(logits[:, classes], classes.argsort()[labels], 15),
    ):
        assert other.loss == pytest.approx(plain.loss, rel=1e-14)
        assert other.accuracy_percent == plain.accuracy_percent
        assert other.ece == pytest.approx(plain.ece, abs=1e-14)


def test_equal_logits_lose_the_log_of_the_number_of_classes() -> None:
    quality = judge_logits(torch.zeros(4, 10), torch.tensor([0, 0, 3, 9]), 15)
    assert quality.loss == pytest.approx(math.log(10), rel=1e-15)
    assert quality.accuracy_percent == 50
    assert quality.ece == pytest.approx(0.4)


def test_outputs_that_are_not_finite_are_an_error() -> None:
    module = seeded(mlp)
    module[0].bias.data[0] = float("inf")
    data = dataset(torch.ones(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(MetricError, match="outputs are not finite"):
        compute([module], data, generator(0))


def test_two_models_are_an_error() -> None:
    data = dataset(torch.ones(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(MetricError, match="one model, got 2"):
        compute([seeded(mlp)] * 2, data, generator(0))
