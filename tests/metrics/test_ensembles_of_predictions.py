"""Ensembles of stored predictions, against slow transcriptions and laws, in float64."""

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from point_support import dataset, generator, mlp, seeded
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.compute import compute as connect
from phasegrid.metrics.ensemble.compute import compute as ensemble
from phasegrid.metrics.ensemble.scaling import HIGHEST, LOWEST, fitted_temperature
from phasegrid.metrics.measured import Source
from phasegrid.metrics.predictions.compute import compute as predict
from phasegrid.tasks.losses import CROSS_ENTROPY, Criterion, mse

OBJECTIVES = [CROSS_ENTROPY, Criterion(mse)]


def vectors(objective: Criterion = CROSS_ENTROPY) -> Dataset:
    rng = generator(3)
    inputs = torch.randn(60, 4, generator=rng, dtype=torch.float64)
    made = dataset(inputs, (2 * inputs[:, :3]).argmax(dim=1))
    aside = torch.randn(30, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 3, (30,), generator=rng)
    return replace(made, aside_inputs=aside, aside_labels=labels, objective=objective)


def stored(models: list[nn.Module], data: Dataset, **args: Any) -> list[Source]:
    found = [predict([model], data, generator(0), **args) for model in models]
    return [
        Source(one.artifacts["predictions"], "predictions", "predictions", args) for one in found
    ]


def measured(num: int, data: Dataset, **args: Any) -> Any:
    models = [seeded(mlp, seed) for seed in range(num)]
    return ensemble([], data, generator(0), stored(models, data, train=True), **args)


def probabilities(num: int, data: Dataset) -> Tensor:
    with torch.no_grad():
        return torch.stack([seeded(mlp, s)(data.test_inputs).softmax(1) for s in range(num)])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_stored_predictions_give_the_numbers_of_the_networks_themselves(
    objective: Criterion,
) -> None:
    data = vectors(objective)
    of_networks = ensemble([seeded(mlp, seed) for seed in range(4)], data, generator(0))
    assert measured(4, data) == of_networks


def test_predictions_are_the_outputs_of_a_network_in_its_dtype() -> None:
    data, model = vectors(), seeded(mlp)
    left = stored([model], data)[0].tensors
    assert set(left) == {"test", "aside"}
    assert left["test"].dtype == torch.float64
    assert torch.equal(left["aside"][0], model(data.aside_inputs).detach())
    assert set(
        stored([model], replace(data, aside_labels=torch.empty(0)), train=True)[0].tensors
    ) == {
        "train",
        "test",
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_ensemble_of_equal_members_is_the_member(objective: Criterion) -> None:
    data, model = vectors(objective), seeded(mlp)
    alone = ensemble([], data, generator(0), stored([model], data, train=True))
    of_three = ensemble([], data, generator(0), stored([model] * 3, data, train=True))
    assert alone["test_disagreement"] is None
    assert of_three["test_disagreement"] == 0
    for name in ("test_loss", "train_loss", "test_error_percent", "test_ece", "test_brier"):
        if alone[name] is None:
            assert of_three[name] is None
        else:
            assert of_three[name] == pytest.approx(alone[name], rel=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_of_an_ensemble_is_at_most_the_mean_of_its_members(objective: Criterion) -> None:
    row = measured(5, vectors(objective))
    assert row["test_loss"] < row["mean_test_loss"]
    assert row["train_loss"] < row["mean_train_loss"]


def test_brier_score_calibration_and_disagreement_are_those_of_a_slow_transcription() -> None:
    data = vectors()
    row, each = measured(4, data, ece_bins=5), probabilities(4, data)
    mean, num = each.mean(0), len(data.test_labels)
    brier, bins = 0.0, [[0, 0.0, 0.0] for _ in range(5)]
    for p, label in zip(mean.tolist(), data.test_labels.tolist(), strict=True):
        brier += sum((p[c] - (c == label)) ** 2 for c in range(3)) / num
        one = bins[math.ceil(max(p) * 5) - 1]
        one[0] += 1
        one[1] += p.index(max(p)) == label
        one[2] += max(p)
    ece = sum(n / num * abs(right / n - sure / n) for n, right, sure in bins if n)
    votes = each.argmax(2).tolist()
    apart = [sum(x != y for x, y in zip(a, b, strict=True)) for a, b in combinations(votes, 2)]
    assert row["test_brier"] == pytest.approx(brier, rel=1e-12)
    assert row["test_ece"] == pytest.approx(ece, rel=1e-12)
    assert row["test_disagreement"] == pytest.approx(sum(apart) / 6 / num, rel=1e-12)


def test_parts_of_an_ensemble_are_ensembles() -> None:
    data = vectors()
    row, each = measured(4, data), probabilities(4, data)

    def error(p: Tensor) -> float:
        return 100 * float((p.argmax(1) != data.test_labels).double().mean())

    assert row["member_test_error_percent"] == pytest.approx([error(p) for p in each])
    first = [error(each[: j + 1].mean(0)) for j in range(4)]
    assert row["first_test_error_percent"] == pytest.approx(first)
    with_first = [error((each[0] + p) / 2) for p in each]
    assert row["with_first_test_error_percent"] == pytest.approx(with_first)
    assert row["first_test_error_percent"][-1] == row["test_error_percent"]
    assert sum(row["member_test_loss"]) / 4 == pytest.approx(row["mean_test_loss"])


def test_a_fitted_temperature_is_where_the_loss_is_least() -> None:
    """The derivative by T vanishes there, by autograd."""
    z = 5 * torch.randn(200, 4, generator=generator(1), dtype=torch.float64)
    labels = torch.where(torch.rand(200, generator=generator(2)) < 0.7, z.argmax(1), 0)
    t = torch.tensor(fitted_temperature(z, labels), dtype=torch.float64, requires_grad=True)
    nn.functional.cross_entropy(z / t, labels).backward()  # type: ignore[no-untyped-call]
    assert t.grad is not None
    assert abs(float(t.grad)) < 1e-10


@pytest.mark.parametrize("seed", range(5))
def test_a_fitted_temperature_never_raises_the_loss_on_its_set(seed: int) -> None:
    z = 10.0 ** (seed - 2) * torch.randn(50, 4, generator=generator(seed), dtype=torch.float64)
    labels = torch.randint(0, 4, (50,), generator=generator(seed + 10))
    t = fitted_temperature(z, labels)
    loss = nn.functional.cross_entropy
    assert loss(z / t, labels) <= loss(z, labels)
    assert LOWEST < t < HIGHEST or t == pytest.approx(HIGHEST)


def test_examples_that_are_all_right_fit_no_temperature() -> None:
    z = torch.eye(3, dtype=torch.float64)
    assert fitted_temperature(z, torch.arange(3)) == 1


def test_scaling_leaves_the_choices_of_one_network_and_lowers_the_loss_where_it_is_fitted() -> None:
    data = vectors()
    row = measured(1, data, scaling="temperature")
    assert row["scaled_test_error_percent"] == row["test_error_percent"]
    same = replace(data, aside_inputs=data.test_inputs, aside_labels=data.test_labels)
    of_itself = measured(1, same, scaling="temperature")
    assert of_itself["scaled_test_loss"] < of_itself["test_loss"]


def test_each_member_is_scaled_by_a_temperature_of_its_own() -> None:
    data = vectors()
    row = measured(3, data, scaling="temperature")
    models = [seeded(mlp, seed) for seed in range(3)]
    with torch.no_grad():
        scales = [fitted_temperature(m(data.aside_inputs), data.aside_labels) for m in models]
        each = [(m(data.test_inputs) / t).softmax(1) for m, t in zip(models, scales, strict=True)]
    p = torch.stack(each).mean(0)[torch.arange(len(data.test_labels)), data.test_labels]
    assert row["member_scale"] == pytest.approx(scales)
    assert row["scaled_test_loss"] == pytest.approx(-float(p.log().mean()), rel=1e-12)


def test_members_along_a_curve_are_named_by_where_they_are() -> None:
    data, models = vectors(), [seeded(mlp, seed) for seed in (0, 1)]
    args = {"curve": "bezier", "batch_size": 16, "epochs": 2, "points": 4}
    found = connect(models, data, generator(0), **args)
    curve = Source(found.artifacts["curve"], "curve", "connectivity", args)
    left = predict(models, data, generator(0), [curve], points=4)
    source = Source(left.artifacts["predictions"], "predictions", "predictions", {})
    row = ensemble([], data, generator(0), [source], train=False)
    assert row["t"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert row["member_test_loss"] == pytest.approx(found.rows["test_loss"], rel=1e-9)
    assert row["num_networks"] == 4
    assert "train_loss" not in row


def test_what_was_not_stored_cannot_be_read() -> None:
    data = vectors()
    with pytest.raises(MetricError, match="no stored predictions on all of the sets train, test"):
        ensemble([], data, generator(0), stored([seeded(mlp)], data))
    with pytest.raises(MetricError, match="objective has no probabilities, so nothing can be"):
        measured(2, vectors(Criterion(mse)), scaling="temperature")
    none = replace(data, aside_inputs=data.aside_inputs[:0], aside_labels=data.aside_labels[:0])
    with pytest.raises(MetricError, match="fitted to examples set aside; there are none"):
        ensemble([seeded(mlp)], none, generator(0), scaling="temperature")


def test_networks_and_what_is_stored_of_them_give_the_same_numbers() -> None:
    data, models = vectors(), [seeded(mlp, seed) for seed in range(3)]
    live = ensemble(models, data, generator(0), scaling="temperature")
    of_stored = ensemble(
        [], data, generator(0), stored(models, data, train=True), scaling="temperature"
    )
    assert live.keys() == of_stored.keys()
    for name, found in live.items():
        items = found if isinstance(found, list) else [found]
        others = of_stored[name] if isinstance(found, list) else [of_stored[name]]
        for one, other in zip(items, others, strict=True):
            assert one == (other if other is None else pytest.approx(other, rel=1e-12))


def test_predictions_that_are_not_finite_are_refused() -> None:
    model = seeded(mlp)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(MetricError, match="outputs on the test set are not finite"):
        predict([model], vectors(), generator(0))
